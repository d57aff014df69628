"""walrusctl schedule: what is done by the clock, for people and for programs, and what its exit codes say."""

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
    """A row a page."""
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


def test_schedules_are_listed_with_what_comes_next_and_what_came_last(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    opened, running = replace(CLERK, closed_until=NEXT), replace(CLERK, running=True, every_s=7.5, last=MISSED)
    late = replace(CLERK, next_slot=SLOT + 60, last=replace(RAN, by="hand"))
    daemon.script["schedule.list"] = returns(ScheduleList(schedules=(CLERK, POET, opened, running, late)))
    with daemon:
        heads, *rows = terminal.run("schedule", "list").stdout.splitlines()
    assert heads.split() == ["NAME", "EVERY", "NEXT", "STATE", "LAST"]
    following, before = format_time(NEXT), format_time(SLOT)
    assert [" ".join(row.split()) for row in rows] == [
        f"clerk 90 min {following} waiting ran, {before}",
        "poet 1 d - paused -",
        f"clerk 90 min {following} breaker open until {following} ran, {before}",
        f"clerk 7.5 s {following} running missed 23, {before}: off",
        f"clerk 90 min due since {format_time(SLOT + 60)} waiting ran by hand, {before}",
    ]


def test_tables_are_cut_where_the_terminal_ends(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        heads, first, *_ = output_on_terminal(terminal, "schedule", "history", columns=80).splitlines()
        assert (len(heads) <= 80, first.endswith("  The roof leaks.")) == (True, True)
        daemon.script["schedule.list"] = returns(
            ScheduleList(schedules=(replace(CLERK, last=replace(FAILED, reason="too long " * 9)),))
        )
        _, row = output_on_terminal(terminal, "schedule", "list", columns=80).splitlines()
    assert (len(row), row[-1]) == (80, "…")


def test_a_tick_by_hand_prints_the_answer_alone(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        result = terminal.run("schedule", "run", "heartbeat:clerk")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "The roof leaks.\n", "")
        (told,) = terminal.json_lines("schedule", "run", "heartbeat:clerk")
        assert isinstance(told, dict)
        assert told["ran"] == {"session": 7, "turn": 1, "cost_usd": 0.25}


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
def test_a_failed_tick_exits_as_a_turn_that_failed_so(
    daemon: FakeDaemon, terminal: WalrusctlRunner, reason: str, code: int
) -> None:
    daemon.script["schedule.run"] = returns(replace(FAILED, reason=reason))
    with daemon:
        result = terminal.run("schedule", "run", "heartbeat:clerk")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"walrusctl: {reason}\n")


def test_a_tick_that_had_no_reason_to_run_says_so_and_is_no_failure(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    reason = "the probe result is unchanged"
    daemon.script["schedule.run"] = returns(replace(FAILED, outcome="skipped", reason=reason, ran=None))
    with daemon:
        result = terminal.run("schedule", "run", "heartbeat:clerk")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"skipped: {reason}\n")


def test_an_answer_that_was_cut_says_where_the_whole_is(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["schedule.run"] = returns(replace(RAN, text="x" * 500, reason="the list cannot be read"))
    with daemon:
        result = terminal.run("schedule", "run", "heartbeat:clerk")
    assert result.stderr == "the list cannot be read\nthe whole answer: walrusctl session history 7\n"


def test_one_that_is_under_way_is_busy(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["schedule.run"] = fails("session_busy", "heartbeat:clerk is already running a tick", "Wait.")
    with daemon:
        assert terminal.run("schedule", "run", "heartbeat:clerk").exit_code == 12


def test_pause_and_resume_say_what_comes_of_it(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        assert terminal.run("schedule", "pause", "heartbeat:clerk").stdout == "heartbeat:clerk is paused\n"
        resumed = terminal.run("schedule", "resume", "heartbeat:clerk").stdout
        assert resumed == f"heartbeat:clerk ticks at {format_time(NEXT)}\n"
        (told,) = terminal.json_lines("schedule", "pause", "heartbeat:clerk")
        assert isinstance(told, dict)
        assert told["paused"]


def test_the_name_of_an_agent_stands_for_what_is_done_with_it(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        for command in ("run", "pause", "resume", "history"):
            assert terminal.run("schedule", command, "clerk").exit_code == 0
            asked = daemon.params(f"schedule.{command}")[0]
            assert isinstance(asked, ScheduleParams | TickHistoryParams)
            assert asked.schedule == "heartbeat:clerk"
        terminal.run("schedule", "pause", "ghost")
        terminal.run("schedule", "history", "retired")
        asked = daemon.params("schedule.history")[-1]
        assert isinstance(asked, TickHistoryParams)
        assert asked.schedule == "heartbeat:retired", "the ledger knows those that are no more"
        assert daemon.params("schedule.pause")[-1] == ScheduleParams(schedule="ghost")
        both = (CLERK, replace(CLERK, name="digest:clerk"))
        daemon.script["schedule.list"] = returns(ScheduleList(schedules=both))
        result = terminal.run("schedule", "pause", "clerk")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        2,
        "Error: clerk may be heartbeat:clerk or digest:clerk",
    )


def test_the_history_follows_cursors_up_to_the_limit(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        heads, *rows = terminal.run("schedule", "history").stdout.splitlines()
        assert heads.split() == ["TICK", "SLOT", "NAME", "OUTCOME", "SESSION", "COST", "TEXT"]
        assert [" ".join(row.split()) for row in rows] == [
            f"3 {format_time(SLOT)} clerk ran 7 $0.2500 The roof leaks.",
            f"2 {format_time(SLOT)} clerk missed 23 - - off",
            f"1 {format_time(SLOT)} clerk failed 7 $0.2500 provider_auth: The key is refused.",
        ]
        cut = terminal.run("schedule", "history", "heartbeat:clerk", "--news", "--limit", 2)
        assert (len(cut.stdout.splitlines()), cut.stderr) == (3, "there are more: raise --limit, or give --all\n")
        assert daemon.params("schedule.history")[-1] == TickHistoryParams(
            schedule="heartbeat:clerk", news=True, limit=1, cursor="1"
        )
        (told,) = terminal.json_lines("schedule", "history", "--all")
        assert isinstance(told, dict)
        assert ([one["tick"] for one in told["ticks"]], told["cursor"]) == ([3, 2, 1], None)
