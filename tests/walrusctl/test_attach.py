"""Tests of walrusctl session attach, list and show: seqs, cut-off streams, and failed sessions."""

import fcntl
import os
import pty
import signal
import struct
import termios

import pytest
from msgspec import Struct
from msgspec.structs import replace

from tests.fakes.daemon import FakeCall, FakeDaemon, HangUp, returns
from tests.fakes.home import MAX_WAIT_S
from tests.fakes.walrusctl_runner import CALL, WalrusctlRunner, session_info
from walrus_protocol.content import Assistant, TurnError
from walrus_protocol.events import AssistantMessage, Done, SessionCreated, StateChanged, ToolCallsStart, UserMessage
from walrus_protocol.methods import AttachParams, AttachResult, History, SessionList
from walrus_protocol.problems import Problem

FAILED = TurnError("crashed_repeatedly", "Twice.", "Raise timeout_s, or resume it.")
LOG = (
    SessionCreated(seq=1, session=1, agent="walrus"),
    UserMessage(seq=2, session=1, turn=1, content="two\nlines"),
    AssistantMessage(seq=3, session=1, turn=1, round=1, content="I will look.", calls=(CALL,)),
    ToolCallsStart(seq=4, session=1, turn=1, calls=(CALL,)),
    AssistantMessage(seq=123456, session=1, turn=1, round=2, content="It says", finish="interrupted"),
    Done(seq=123457, session=1, turn=1, stop_reason="error", error=FAILED, rounds=2),
)


def emit_log(call: FakeCall) -> Struct:
    call.emit(*LOG)
    return AttachResult(last_seq=123457, reason="end")


def emit_log_and_hang_up(call: FakeCall) -> Struct:
    emit_log(call)
    raise HangUp


def emit_log_and_stop(call: FakeCall) -> Struct:
    emit_log(call)
    raise Problem("shutting_down", "walrusd is stopping", "Ask again.")


def test_with_seq_each_line_begins_with_its_seq(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.attach"] = emit_log
    assert terminal.run("session", "attach", 1, "--seq").stdout == (
        "    1  session 1 of agent walrus created\n"
        "    2  user: two\nlines\n"
        "    3  assistant: I will look.\n"
        '    4  → read {"path": "notes.txt"}\n'
        "123456  assistant: It says (cut off)\n"
        "123457  done: error, 2 rounds, 0 tokens in, 0 out, $0.0000, 0.0 s\n"
        "crashed_repeatedly: Twice.\n"
        "  hint: Raise --turn-timeout, or resume it.\n"
    )
    terminal.run("session", "attach", 1, "--seq", "--json")
    assert daemon.params("session.attach") == [AttachParams(session=1, deltas=False), AttachParams(session=1)]


@pytest.mark.parametrize("ends", [emit_log_and_hang_up, emit_log_and_stop])
def test_a_cut_off_client_is_given_the_point_to_continue_from(
    daemon: FakeDaemon, terminal: WalrusctlRunner, ends: object
) -> None:
    daemon.script["session.attach"] = emit_log_and_hang_up if ends is emit_log_and_hang_up else emit_log_and_stop
    result = terminal.run("session", "attach", 1)
    assert result.exit_code == 4
    assert "`walrusctl session attach 1 --since 123457` continues from here\n" in result.stderr


def test_ctrl_c_prints_the_point_to_continue_from(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    def emit_log_and_wait(call: FakeCall) -> Struct:
        emit_log(call)
        call.emit(StateChanged(session=1, state="error"))
        return call.wait_for_cancel()

    daemon.script["session.attach"] = emit_log_and_wait
    with terminal.start_process("session", "attach", 1, "--json") as child:
        assert child.stdout
        assert child.stderr
        for _ in (*LOG, "the live event state_changed, after which all others were read"):
            child.stdout.readline()
        child.send_signal(signal.SIGINT)
        stderr = child.stderr.read().decode()
        assert child.wait(MAX_WAIT_S) == 130
    assert stderr == "`walrusctl session attach 1 --since 123457` continues from here\n"


def test_a_failed_session_is_shown_with_its_error(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    failed = replace(session_info(1), state="error", error=FAILED)
    daemon.script["session.get"] = returns(failed)
    result = terminal.run("session", "show", 1)
    assert "state       error: crashed_repeatedly\n" in result.stdout
    assert result.stderr == "crashed_repeatedly: Twice.\n  hint: Raise --turn-timeout, or resume it.\n"


def test_a_message_without_text_has_no_space_after_its_role(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.history"] = returns(History(messages=(Assistant(calls=(CALL,)),)))
    assert terminal.run("session", "history", 1).stdout == 'assistant:\n  → read {"path": "notes.txt"}\n'


def test_a_list_on_a_terminal_has_one_line_per_session_with_its_error_kind(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    failed = replace(session_info(1), state="error", error=FAILED, title="long " * 60)
    daemon.script["session.list"] = returns(SessionList(sessions=(failed,), cursor=None))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    with terminal.start_process("session", "list", stdout=theirs) as child:
        os.close(theirs)
        assert child.wait(MAX_WAIT_S) == 0
    _, row = os.read(ours, 4096).decode().splitlines()
    os.close(ours)
    assert (len(row), row.endswith("…"), "  error: crashed_repeatedly  " in row) == (90, True, True)


def test_an_empty_list_has_a_note_on_stderr(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.list"] = returns(SessionList(sessions=(), cursor=None))
    result = terminal.run("session", "list")
    assert (result.exit_code, result.stdout) == (0, "ID  AGENT  STATE  MESSAGES  UPDATED  TITLE\n")
    assert result.stderr == "no sessions\n"
    assert terminal.run("session", "list", "--agent", "x").stderr == "no matching sessions\n"
