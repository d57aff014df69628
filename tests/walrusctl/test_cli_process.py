"""Tests of walrusctl as a process: imports, terminals, Ctrl-C, and closed standard streams."""

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fakes.daemon import FakeCall, FakeDaemon
from tests.fakes.walrusctl_runner import TURN_RESULT, WalrusctlRunner
from walrus_protocol.events import AssistantMessage, TextDelta
from walrus_protocol.methods import SessionParams, TurnResult

SLOW_MODULES = {
    "trio",
    "msgspec",
    "structlog",
    "httpx2",
    "apsw",
    "anyio",
    "asyncio",
    "tomllib",
    "walrusd",
    "jsonschema_rs",
}
PRINT_MODULES = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"


def emit_word_and_wait(call: FakeCall) -> TurnResult:
    call.emit(TextDelta(session=7, turn=3, text="word", round=1, at=0))
    call.cancelled.wait(30)
    return TURN_RESULT


def wait_without_events(call: FakeCall) -> TurnResult:
    call.cancelled.wait(30)
    return TURN_RESULT


@contextmanager
def terminal_pair() -> Iterator[tuple[int, int]]:
    """Opens a pseudo-terminal; yields our end and the child's end."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def output_on_terminal(terminal: WalrusctlRunner, *words: str | int, columns: int = 0) -> str:
    """Returns the output of a command on a terminal; `columns` 0 means that its width is unknown."""
    with terminal_pair() as (ours, theirs):
        termios.tcsetwinsize(theirs, (24, columns))
        child = terminal.start_process(*words, stdout=theirs)
        _, stderr = child.communicate(timeout=30)
        assert (child.returncode, stderr) == (0, b"")
        os.write(theirs, b"\0")  # marks the end of the output
        shown = b""
        while not shown.endswith(b"\0"):
            shown += os.read(ours, 65536)
    return shown[:-1].decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "words",
    [
        ("ping",),
        ("status",),
        ("agent", "list"),
        ("session", "create", "walrus"),
        ("session", "list"),
        ("session", "attach", "1"),
        ("send", "1", "hi"),
        ("stream", "1", "hi"),
        ("run", "walrus", "hi"),
        ("config", "path"),
    ],
)
def test_a_one_shot_command_imports_nothing_slow(
    daemon: FakeDaemon, terminal: WalrusctlRunner, words: tuple[str, ...]
) -> None:
    child = terminal.start_process(*words, prelude=PRINT_MODULES)
    stdout, stderr = child.communicate(timeout=30)
    assert child.returncode == 0, stderr
    assert stdout
    loaded = {name.partition(".")[0] for name in stderr.decode().splitlines()[-1].split()}
    assert "walrusctl" in loaded
    assert loaded & SLOW_MODULES == set()


def test_the_installed_program_is_this_one(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    program = os.path.join(os.path.dirname(sys.executable), "walrusctl")
    if not os.path.exists(program):
        pytest.skip("walrusctl is not installed in this environment")
    answer = subprocess.check_output(
        [program, "send", "1"], input=b"hi", env={**os.environ, **terminal.environ}, timeout=30
    )
    assert answer == b"It says hi.\n"


def test_a_terminal_gets_no_escapes_and_a_pipe_gets_them_all(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    text = "a\x1b]0;title\x07b\x1b[31mc\x9b2J\rd"

    def script(call: FakeCall) -> TurnResult:
        for at, letter in enumerate(text):
            call.emit(TextDelta(session=1, turn=1, text=letter, round=1, at=at))
        call.emit(AssistantMessage(session=1, turn=1, seq=3, round=1, content=text))
        return TurnResult(session=1, turn=1, text=text, stop_reason="text_response")

    daemon.script["session.stream"] = script
    assert output_on_terminal(terminal, "stream", 1, "hi") == "abcd\n"
    assert output_on_terminal(terminal, "send", 1, "hi") == "abcd\n"
    stdout, _ = terminal.start_process("send", 1, "hi").communicate(timeout=30)
    assert stdout.decode() == text + "\n"


def test_run_streams_on_a_terminal(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with terminal_pair() as (ours, theirs):
        child = terminal.start_process("run", "walrus", "what does it say?", stdout=theirs)
        child.communicate(timeout=30)
        assert os.read(ours, 65536).decode() == "I will look.\r\nIt says hi.\r\n"
    assert child.returncode == 0


def test_events_are_dim_on_a_terminal_unless_no_color_is_set(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    assert "\x1b[2msession 1 of agent walrus created\x1b[0m\n" in output_on_terminal(terminal, "session", "attach", 1)
    terminal.environ["NO_COLOR"] = "1"
    assert "\x1b" not in output_on_terminal(terminal, "session", "attach", 1)


def test_on_a_terminal_error_lines_are_indented_when_wrapped(terminal: WalrusctlRunner) -> None:
    with terminal_pair() as (ours, theirs):
        termios.tcsetwinsize(theirs, (24, 60))
        child = terminal.start_process("--socket", "/nowhere.sock", "ping", stderr=theirs)
        stdout, _ = child.communicate(timeout=30)
        assert (child.returncode, stdout) == (4, b"")
        assert os.read(ours, 65536).decode().replace("\r\n", "\n") == (
            "walrusctl: walrusd is not running: there is no socket at\n"
            "           /nowhere.sock\n"
            "  hint: start it with `walrusd`, the first time with\n"
            "        `walrusd --init`\n"
        )


def test_a_terminal_with_no_text_is_a_usage_error(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with terminal_pair() as (_, theirs):
        child = terminal.start_process("send", 1, stdin=theirs)
        _, stderr = child.communicate(timeout=30)
    assert child.returncode == 2
    assert b"TEXT is missing; give it as an argument or pipe it in" in stderr
    assert daemon.requests == []


def test_ctrl_c_interrupts_the_turn(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.stream"] = emit_word_and_wait
    child = terminal.start_process("stream", 7, "hi")
    assert child.stdout
    assert child.stdout.read(4) == b"word"
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stdout, stderr) == (130, b"\n", b"interrupted\n")
    assert daemon.params("session.interrupt") == [SessionParams(session=7)]


def test_ctrl_c_with_detach_leaves_the_turn_alone(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.stream"] = emit_word_and_wait
    child = terminal.start_process("stream", 7, "hi", "--detach")
    assert child.stdout
    assert child.stdout.read(4) == b"word"
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr) == (130, b"no longer waiting; the turn continues\n")
    assert daemon.params("session.interrupt") == []


def test_ctrl_c_does_not_interrupt_another_turn_while_the_message_is_queued(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    daemon.script["session.stream"] = wait_without_events
    child = terminal.start_process("send", 7, "hi")
    daemon.wait_until(lambda fake: bool(fake.params("session.stream")))
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stdout) == (130, b"")
    assert stderr == b"no longer waiting; the message stays queued, and its turn will run later\n"
    assert daemon.params("session.interrupt") == []


def test_ctrl_c_ends_a_wait_of_any_other_kind(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.wait"] = FakeCall.wait_for_cancel
    child = terminal.start_process("session", "wait", 1)
    daemon.wait_until(lambda fake: bool(fake.params("session.wait")))
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=30) == (b"", b"")
    assert child.returncode == 130


def test_a_closed_stdout_ends_it_quietly(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    def endless(call: FakeCall) -> TurnResult:
        at = 0
        while not call.cancelled.is_set():
            call.emit(TextDelta(session=1, turn=1, text="line\n", round=1, at=at))
            at += 5
        return TURN_RESULT

    daemon.script["session.stream"] = endless
    child = terminal.start_process("stream", 1, "hi")
    assert child.stdout
    assert child.stdout.readline() == b"line\n"
    child.stdout.close()
    assert child.stderr
    assert child.stderr.read() == b""
    assert child.wait(30) == 141
    child.stderr.close()


@pytest.mark.parametrize(
    "words", [("ping",), ("session", "list"), ("send", "1", "hi"), ("stream", "1", "hi"), ("--help",), ("--version",)]
)
def test_an_answer_that_cannot_be_written_is_a_failure(
    daemon: FakeDaemon, terminal: WalrusctlRunner, words: tuple[str, ...]
) -> None:
    with open("/dev/full", "wb") as full:
        child = terminal.start_process(*words, stdout=full.fileno())
        _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr) == (1, b"walrusctl: cannot write the answer: No space left on device\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("status",), 0),
        (("stream", "1", "hi"), 0),
        (("session", "list", "--limit", "1"), 0),
        (("session", "create"), 2),
        (("pingg",), 2),
        (("--socket", "/nowhere.sock", "ping"), 4),
    ],
)
def test_a_full_stderr_changes_nothing(
    daemon: FakeDaemon, terminal: WalrusctlRunner, words: tuple[str, ...], code: int
) -> None:
    with open("/dev/full", "wb") as full:
        child = terminal.start_process(*words, stderr=full.fileno())
        stdout, _ = child.communicate(timeout=30)
    assert (child.returncode, bool(stdout)) == (code, code == 0)


def test_a_stderr_without_a_reader_changes_nothing(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as unread:
        child = terminal.start_process("stream", 1, "hi", stderr=unread.fileno())
        stdout, _ = child.communicate(timeout=30)
    assert (child.returncode, stdout) == (0, b"I will look.\nIt says hi.\n")


def test_with_a_closed_stdout_no_request_is_sent(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    child = terminal.start_process("send", "1", "hi", prelude="import sys; sys.stdout = None\n")
    stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stdout) == (1, b"")
    assert stderr.startswith(b"walrusctl: cannot write the answer: stdout is closed\n")
    assert daemon.requests == []


def test_stdin_and_stderr_may_be_closed(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    child = terminal.start_process("send", "1", prelude="import os, sys; sys.stdin = sys.stderr = None\n")
    assert child.communicate(timeout=30) == (b"", b"")
    assert child.returncode == 2
