"""Tests of walrusctl schedule: lists, manual ticks, pauses, history and exit codes."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.fakes.daemon import FakeCall, FakeDaemon, fails, returns
from tests.fakes.walrusctl_runner import WalrusctlRunner
from tests.walrusctl.test_cli_process import output_on_terminal
from walrus_protocol.events import TurnRef
from walrus_protocol.methods.schedule import (
    ScheduleInfo,
    ScheduleList,
    ScheduleParams,
    TickHistory,
    TickHistoryParams,
    TickInfo,
)
from walrusctl.formatting import format_time

SLOT, NEXT = 1_000_000_000.0, 4_000_000_000.0
RAN = TickInfo(
    tick=3,
    schedule="heartbeat:clerk",
    agent="clerk",
    slot=SLOT,
    by="clock",
    outcome="ran",
    ran=TurnRef(session=7, turn=1, cost_usd=0.25),
    text="The roof leaks.",
    news=True,
)
MISSED = TickInfo(
    tick=2, schedule="heartbeat:clerk", agent="clerk", slot=SLOT, by="clock", outcome="missed", reason="off", count=23
)
FAILED = replace(RAN, tick=1, outcome="failed", reason="provider_auth: The key is refused.", text="")
CLERK = ScheduleInfo(name="heartbeat:clerk", agent="clerk", kind="heartbeat", every_s=5400.0, next_slot=NEXT, last=RAN)
POET = ScheduleInfo(
    name="heartbeat:poet", agent="poet", kind="heartbeat", every_s=86_400.0, paused=True, closed_until=SLOT
)


def pages(call: FakeCall) -> TickHistory:
    """Returns one tick per page."""
    params = call.request.params
    assert isinstance(params, TickHistoryParams)
    at = int(params.cursor or 0)
    return TickHistory(ticks=((RAN, MISSED, FAILED)[at],), cursor=str(at + 1) if at < 2 else None)


SCRIPT = {
    "schedule.list": returns(ScheduleList(schedules=(CLERK, POET))),
    "schedule.run": returns(RAN),
    "schedule.pause": returns(replace(CLERK, paused=True, next_slot=None)),
    "schedule.resume": returns(CLERK),
    "schedule.history": pages,
}


@pytest.fixture
def daemon(tmp_path: Path) -> FakeDaemon:
    return FakeDaemon(tmp_path / "walrus.sock", SCRIPT)


def test_schedules_are_listed_with_their_next_and_last_tick(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    opened, running = replace(CLERK, closed_until=NEXT), replace(CLERK, running=True, every_s=7.5, last=MISSED)
    late = replace(CLERK, next_slot=SLOT + 60, last=replace(RAN, by="hand"))
    daemon.script["schedule.list"] = returns(ScheduleList(schedules=(CLERK, POET, opened, running, late)))
    with daemon:
        headers, *rows = terminal.run("schedule", "list").stdout.splitlines()
    assert headers.split() == ["NAME", "EVERY", "NEXT", "STATE", "LAST"]
    next_time, last_time = format_time(NEXT), format_time(SLOT)
    assert [" ".join(row.split()) for row in rows] == [
        f"clerk 90 min {next_time} waiting ran, {last_time}",
        "poet 1 d - paused -",
        f"clerk 90 min {next_time} breaker open until {next_time} ran, {last_time}",
        f"clerk 7.5 s {next_time} running missed 23, {last_time}: off",
        f"clerk 90 min due since {format_time(SLOT + 60)} waiting ran by hand, {last_time}",
    ]


def test_tables_are_cut_at_the_width_of_the_terminal(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        headers, first, *_ = output_on_terminal(terminal, "schedule", "history", columns=80).splitlines()
        assert (len(headers) <= 80, first.endswith("  The roof leaks.")) == (True, True)
        daemon.script["schedule.list"] = returns(
            ScheduleList(schedules=(replace(CLERK, last=replace(FAILED, reason="too long " * 9)),))
        )
        _, row = output_on_terminal(terminal, "schedule", "list", columns=80).splitlines()
    assert (len(row), row[-1]) == (80, "…")


def test_a_tick_by_hand_prints_only_the_answer(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        result = terminal.run("schedule", "run", "heartbeat:clerk")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "The roof leaks.\n", "")
        (tick,) = terminal.json_lines("schedule", "run", "heartbeat:clerk")
        assert isinstance(tick, dict)
        assert tick["ran"] == {"session": 7, "turn": 1, "cost_usd": 0.25}


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("provider_auth: The key is refused.", 9),
        ("timeout: It took too long.", 7),
        ("interrupted: the turn was interrupted", 8),
        ("max_iterations: the agent used up its rounds", 10),
        ("no_action: nothing", 11),
        ("budget_exceeded: too dear", 6),
        ("agent_not_found: there is no agent named 'x'", 3),
        ("storage_full: no space left", 1),
        ("internal: a bug", 1),
        ("probe: it did not finish within 60 s and was killed", 1),
    ],
)
def test_a_failed_tick_exits_like_a_turn_with_the_same_failure(
    daemon: FakeDaemon, terminal: WalrusctlRunner, reason: str, code: int
) -> None:
    daemon.script["schedule.run"] = returns(replace(FAILED, reason=reason))
    with daemon:
        result = terminal.run("schedule", "run", "heartbeat:clerk")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"walrusctl: {reason}\n")


def test_a_skipped_tick_prints_its_reason_and_exits_0(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    reason = "the probe result is unchanged"
    daemon.script["schedule.run"] = returns(replace(FAILED, outcome="skipped", reason=reason, ran=None))
    with daemon:
        result = terminal.run("schedule", "run", "heartbeat:clerk")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"skipped: {reason}\n")


def test_a_truncated_answer_has_a_note_with_the_command_for_all_of_it(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    daemon.script["schedule.run"] = returns(replace(RAN, text="x" * 500, reason="the list cannot be read"))
    with daemon:
        result = terminal.run("schedule", "run", "heartbeat:clerk")
    assert result.stderr == "the list cannot be read\nthe whole answer: walrusctl session history 7\n"


def test_a_schedule_with_a_running_tick_is_busy(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["schedule.run"] = fails("session_busy", "heartbeat:clerk is already running a tick", "Wait.")
    with daemon:
        assert terminal.run("schedule", "run", "heartbeat:clerk").exit_code == 12


def test_pause_and_resume_print_the_new_state(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        assert terminal.run("schedule", "pause", "heartbeat:clerk").stdout == "heartbeat:clerk is paused\n"
        resumed = terminal.run("schedule", "resume", "heartbeat:clerk").stdout
        assert resumed == f"heartbeat:clerk ticks next at {format_time(NEXT)}\n"
        (entry,) = terminal.json_lines("schedule", "pause", "heartbeat:clerk")
        assert isinstance(entry, dict)
        assert entry["paused"]


def test_the_name_of_an_agent_stands_for_its_heartbeat(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        for command in ("run", "pause", "resume", "history"):
            assert terminal.run("schedule", command, "clerk").exit_code == 0
            params = daemon.params(f"schedule.{command}")[0]
            assert isinstance(params, ScheduleParams | TickHistoryParams)
            assert params.schedule == "heartbeat:clerk"
        terminal.run("schedule", "pause", "ghost")
        terminal.run("schedule", "history", "retired")
        history_params = daemon.params("schedule.history")[-1]
        assert isinstance(history_params, TickHistoryParams)
        assert history_params.schedule == "heartbeat:retired", "the ledger has heartbeats that no longer exist"
        assert daemon.params("schedule.pause")[-1] == ScheduleParams(schedule="ghost")
        ambiguous = (CLERK, replace(CLERK, name="digest:clerk"))
        daemon.script["schedule.list"] = returns(ScheduleList(schedules=ambiguous))
        result = terminal.run("schedule", "pause", "clerk")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        2,
        "Error: clerk is ambiguous: it may be heartbeat:clerk or digest:clerk",
    )


def test_the_history_follows_cursors_up_to_the_limit(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        headers, *rows = terminal.run("schedule", "history").stdout.splitlines()
        assert headers.split() == ["TICK", "SLOT", "NAME", "OUTCOME", "SESSION", "COST", "TEXT"]
        assert [" ".join(row.split()) for row in rows] == [
            f"3 {format_time(SLOT)} clerk ran 7 $0.2500 The roof leaks.",
            f"2 {format_time(SLOT)} clerk missed 23 - - off",
            f"1 {format_time(SLOT)} clerk failed 7 $0.2500 provider_auth: The key is refused.",
        ]
        limited = terminal.run("schedule", "history", "heartbeat:clerk", "--news", "--limit", 2)
        assert (len(limited.stdout.splitlines()), limited.stderr) == (
            3,
            "there are more: raise --limit, or use --all\n",
        )
        assert daemon.params("schedule.history")[-1] == TickHistoryParams(
            schedule="heartbeat:clerk", news=True, limit=1, cursor="1"
        )
        (page,) = terminal.json_lines("schedule", "history", "--all")
        assert isinstance(page, dict)
        assert ([tick["tick"] for tick in page["ticks"]], page["cursor"]) == ([3, 2, 1], None)
