"""Tests of walrusctl events: lines for people, JSON for programs, and the point to continue from."""

import json
import signal
from pathlib import Path
from typing import get_args

import pytest
from msgspec import Struct

from tests.fakes.daemon import FakeCall, FakeDaemon, HangUp
from tests.fakes.home import MAX_WAIT_S
from tests.fakes.walrusctl_runner import WalrusctlRunner
from walrus_protocol.content import ToolCall
from walrus_protocol.events import (
    AnyDaemonEvent,
    AnyLiveEvent,
    AnySessionEvent,
    AssistantMessage,
    ConfigReloaded,
    Done,
    MessageQueued,
    SessionCreated,
    SessionImported,
    StateChanged,
    Tick,
    ToolCallsStart,
    UserMessage,
    event_type_of,
)
from walrus_protocol.methods.subscribe import SubscribeParams, SubscribeResult
from walrus_protocol.problems import Problem
from walrus_protocol.vocabulary import EventType
from walrusctl.formatting import format_time

TS = 1_793_577_600.0
CALL = ToolCall(id="c1", name="read", arguments={"path": "a"})
EVENTS = (
    SessionCreated(seq=1, offset=5, ts=TS, session=3, agent="walrus"),
    UserMessage(seq=2, offset=6, ts=TS, session=3, turn=1, content="what\ndoes it say?", sender="ann"),
    AssistantMessage(seq=3, offset=7, ts=TS, session=3, turn=1, round=1, calls=(CALL,)),
    ToolCallsStart(seq=4, offset=8, ts=TS, session=3, turn=1, calls=(CALL,)),
    AssistantMessage(seq=5, offset=9, ts=TS, session=3, turn=1, round=2, content="\x1b[31mhi"),
    Done(seq=6, offset=10, ts=TS, session=3, turn=1, stop_reason="text_response", rounds=2),
    Tick(
        seq=None, offset=12, ts=TS, tick=1, schedule="heartbeat:walrus", agent="walrus", slot=TS, outcome="skipped",
        reason="quiet hours",
    ),
    ConfigReloaded(seq=None, offset=13, ts=TS, changed=("defaults.model",)),
    SessionImported(seq=None, offset=18, ts=TS, imported=4, agent="walrus"),
)  # fmt: skip


def emit_events(call: FakeCall) -> Struct:
    call.emit(StateChanged(ts=TS, state="idle"), *EVENTS)
    return SubscribeResult(last_offset=20, reason="end")


def emit_events_and_hang_up(call: FakeCall) -> Struct:
    call.emit(StateChanged(ts=TS, state="idle"), *EVENTS[:3])
    raise HangUp


@pytest.fixture
def daemon(tmp_path: Path) -> FakeDaemon:
    return FakeDaemon(tmp_path / "walrus.sock", {"event.subscribe": emit_events})


def test_each_event_is_one_line_with_its_time_and_session(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        result = terminal.run("events")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{format_time(TS)} {line}"
        for line in (
            "[3] session 3 of agent walrus created",
            "[3] ann: what does it say?",
            '[3] → read {"path": "a"}',
            "[3] assistant: hi",
            "[3] done: text_response, 2 rounds, 0 tokens in, 0 out, $0.0000, 0.0 s",
            "[walrusd] heartbeat:walrus skipped: quiet hours",
            "[walrusd] reloaded: defaults.model",
            "[walrusd] session 4 of agent walrus imported",
        )
    ]


def test_with_json_each_event_is_one_line_and_the_result_is_the_last(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    with daemon:
        lines = terminal.json_lines("events")
    assert [line.get("offset") for line in lines if isinstance(line, dict)] == [None, *range(5, 11), 12, 13, 18, None]
    assert lines[-1] == {"last_offset": 20, "reason": "end"}


def test_the_filter_options_are_sent_to_the_daemon(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    filters = ("--session", 3, "--session", 4, "--agent", "a", "--type", "done", "--type", "tick")
    with daemon:
        terminal.run("events")
        terminal.run("events", "--no-follow")
        terminal.run("events", "--json")
        terminal.run("events", "--json", "--no-deltas", "--since", 7, *filters)
    assert daemon.params("event.subscribe") == [
        SubscribeParams(deltas=False),
        SubscribeParams(deltas=False, follow=False, since=0),
        SubscribeParams(),
        SubscribeParams(since=7, sessions=(3, 4), agents=("a",), types=("done", "tick"), deltas=False),
    ]


def test_a_selected_type_has_a_line_in_any_case(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        result = terminal.run("events", "--type", "state_changed")
    assert result.stdout.splitlines()[0] == f"{format_time(TS)} [walrusd] (state_changed)"


def test_an_unknown_type_is_refused_with_the_nearest_name(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        result = terminal.run("events", "--type", "dnoe")
    assert result.exit_code == 2
    assert "did you mean done?" in result.stderr


def test_the_types_are_in_the_help(terminal: WalrusctlRunner) -> None:
    classes = [kind for union in (AnySessionEvent, AnyDaemonEvent, AnyLiveEvent) for kind in get_args(union)]
    assert tuple(map(event_type_of, classes)) == get_args(EventType)
    shown = terminal.run("events", "--help").stdout
    assert all(f" {kind}" in shown for kind in get_args(EventType))


def test_if_the_daemon_goes_away_the_point_to_continue_from_is_printed(
    tmp_path: Path, terminal: WalrusctlRunner
) -> None:
    with FakeDaemon(tmp_path / "walrus.sock", {"event.subscribe": emit_events_and_hang_up}):
        result = terminal.run("events", "--json")
    assert result.exit_code == 4
    assert [json.loads(line).get("offset") for line in result.stdout.splitlines()[:-1]] == [None, 5, 6, 7]
    assert "`walrusctl events --since 7` continues from here" in result.stderr


def test_if_the_daemon_stops_the_point_to_continue_from_is_printed(tmp_path: Path, terminal: WalrusctlRunner) -> None:
    def emit_events_and_stop(call: FakeCall) -> Struct:
        emit_events(call)
        raise Problem("shutting_down", "walrusd is stopping", "Ask again when it is back.")

    with FakeDaemon(tmp_path / "walrus.sock", {"event.subscribe": emit_events_and_stop}):
        result = terminal.run("events", "--json")
    assert result.exit_code == 4
    assert "`walrusctl events --since 18` continues from here" in result.stderr


def test_after_a_refusal_no_point_to_continue_from_is_printed(tmp_path: Path, terminal: WalrusctlRunner) -> None:
    def refuse(call: FakeCall) -> Struct:
        raise Problem("offset_in_future", "the log ends at offset 3, before 9", "Begin earlier.")

    with FakeDaemon(tmp_path / "walrus.sock", {"event.subscribe": refuse}):
        result = terminal.run("events", "--since", 9)
    assert (result.exit_code, "continues from here" in result.stderr) == (1, False)


def test_ctrl_c_exits_130_and_prints_the_point_to_continue_from(tmp_path: Path, terminal: WalrusctlRunner) -> None:
    def emit_events_and_wait(call: FakeCall) -> Struct:
        emit_events(call)
        call.emit(MessageQueued(ts=TS, session=3, position=1))
        return call.wait_for_cancel()

    with FakeDaemon(tmp_path / "walrus.sock", {"event.subscribe": emit_events_and_wait}):
        child = terminal.start_process("events")
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(9)]
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=MAX_WAIT_S)
    assert (child.returncode, len(lines)) == (130, 9)
    assert stderr.decode() == "`walrusctl events --since 18` continues from here\n"
