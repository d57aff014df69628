"""Tests of single ticks: the message, the session, the row in the ledger, and manual ticks."""

from functools import partial

import pytest
import trio

from tests.fakes.clock import FakeWallClock
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel, fails, in_turn, replies
from tests.schedule.scheduler_harness import HOUR, MONDAY, NAME, FakeProbe, open_scheduler
from walrus_config.schema import HeartbeatSettings
from walrus_protocol.content import User
from walrus_protocol.events import Tick, TurnRef, UserMessage, decode_row
from walrus_protocol.problems import Problem
from walrusd.ports import ModelFailed
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.schedule.heartbeat_prompt import DEFAULT_PROMPT, PendingWork, is_news
from walrusd.schedule.todo_file import TodoUnreadable
from walrusd.store.tables.schedule import ScheduleRow

HOURLY = HeartbeatSettings(interval=60, prompt="Look around.")
SAME = HeartbeatSettings(interval=60, prompt="Look around.", session="same")
PROBING = HeartbeatSettings(interval=60, prompt="Look around.", probe="ls")

Autojump = trio.abc.Clock


async def read_todo(agent: str) -> PendingWork | None:
    await trio.lowlevel.checkpoint()
    return PendingWork(f"What {agent} has to do:", "- mend the roof")


async def read_broken_todo(agent: str) -> PendingWork | None:
    await trio.lowlevel.checkpoint()
    raise TodoUnreadable(f"the list of {agent} cannot be read")


async def test_a_tick_is_a_turn_of_its_own_session_and_its_row_names_both(autojump_clock: Autojump) -> None:
    model = FakeModel(replies("The roof leaks."))
    async with open_scheduler(
        MemoryLog(), model, FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        await trio.sleep(HOUR + 1)
        [row] = await harness.rows()
        assert row == Tick(
            ts=MONDAY + HOUR,
            tick=1,
            schedule=NAME,
            agent="clerk",
            slot=MONDAY + HOUR,
            outcome="ran",
            ran=TurnRef(session=1, turn=1, cost_usd=0.0),
            text="The roof leaks.",
            news=True,
            started_at=MONDAY + HOUR,
            ended_at=MONDAY + HOUR,
        )
        info = await harness.runtime.session(1)
        assert (info.created_by, info.title, info.state) == (
            "heartbeat",
            "heartbeat of clerk, 2026-11-02 01:00",
            "closed",
        )
        message = decode_row((await harness.log.events(1, 1, 1))[0].body)
        assert isinstance(message, UserMessage)
        assert (message.kind, message.sender, message.content) == ("heartbeat", "", "Look around.")


async def test_the_tick_event_and_the_last_row_are_equal(autojump_clock: Autojump) -> None:
    log = MemoryLog()
    async with open_scheduler(log, FakeModel(), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(HOUR + 1)
        [row] = await harness.rows()
    events = await log.events(0, 0, 9)
    assert [event.seq for event in events] == [1]
    assert b'"outcome":"ran"' in events[0].body
    assert row.outcome == "ran"


async def test_todo_items_of_the_agent_follow_the_prompt(autojump_clock: Autojump) -> None:
    model, probe = FakeModel(), FakeProbe("2 files")
    opener = partial(open_scheduler, MemoryLog(), model, FakeWallClock(MONDAY), probe=probe, read_todo=read_todo)
    async with opener(heartbeat_settings={"clerk": PROBING}) as harness:
        await trio.sleep(HOUR + 1)
        assert model.requests == [
            [
                User(
                    "Look around.\n\n"
                    "What clerk has to do:\n\n- mend the roof\n\n"
                    "Output of `ls` (exit status 0):\n\n2 files"
                )
            ]
        ]
        assert await harness.outcomes() == [("ran", "")]


async def test_an_agent_is_woken_without_its_list_if_that_cannot_be_read(autojump_clock: Autojump) -> None:
    model = FakeModel()
    opener = partial(open_scheduler, MemoryLog(), model, FakeWallClock(MONDAY), read_todo=read_broken_todo)
    async with opener(heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(HOUR + 1)
        assert model.requests == [[User("Look around.")]]
        assert await harness.outcomes() == [("ran", "the list of clerk cannot be read")]


async def test_without_a_prompt_the_default_one_explains_heartbeats(autojump_clock: Autojump) -> None:
    model = FakeModel()
    async with open_scheduler(
        MemoryLog(), model, FakeWallClock(MONDAY), heartbeat_settings={"clerk": HeartbeatSettings(interval=60)}
    ):
        await trio.sleep(HOUR + 1)
    assert model.requests == [[User(DEFAULT_PROMPT)]]
    assert "HEARTBEAT_OK" in DEFAULT_PROMPT


@pytest.mark.parametrize(
    ("answer", "news"),
    [
        ("HEARTBEAT_OK", False),
        ("  **HEARTBEAT_OK**.\n", False),
        ("```\nHEARTBEAT_OK\n```", False),
        ("> _HEARTBEAT_OK!_", False),
        ("", True),
        ("heartbeat_ok", True),
        ("HEARTBEAT_OK, but the roof leaks.", True),
        ("All fine. HEARTBEAT_OK", True),
    ],
)
def test_an_answer_of_only_heartbeat_ok_is_not_news(answer: str, news: bool) -> None:
    assert is_news(answer) is news


async def test_a_heartbeat_ok_is_stored_and_is_not_news_and_a_long_answer_is_truncated(
    autojump_clock: Autojump,
) -> None:
    model = FakeModel(in_turn(replies("HEARTBEAT_OK"), replies("x" * 600)))
    async with open_scheduler(
        MemoryLog(), model, FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        await trio.sleep(2 * HOUR + 1)
        assert [(row.text, row.news) for row in await harness.rows()] == [("HEARTBEAT_OK", False), ("x" * 500, True)]
        assert [row.text for row in await harness.scheduler.history(NAME, news=True)] == ["x" * 500]


async def test_the_same_session_is_reused_until_it_is_closed(autojump_clock: Autojump) -> None:
    log, model, clock = MemoryLog(), FakeModel(), FakeWallClock(MONDAY)
    async with open_scheduler(log, model, clock, heartbeat_settings={"clerk": SAME}) as harness:
        await trio.sleep(2 * HOUR + 1)
        assert (await harness.runtime.session(1)).title == "heartbeats of clerk"
    log = MemoryLog(log)
    async with open_scheduler(log, model, clock, heartbeat_settings={"clerk": SAME}) as harness:
        await trio.sleep(HOUR)
        await harness.runtime.close_session(1)
        await trio.sleep(2 * HOUR)
        turns = [(row.ran.session, row.ran.turn) for row in await harness.rows() if row.ran]
        assert turns == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
        assert [len(request) for request in model.requests] == [1, 3, 5, 1, 3]


async def test_a_tick_is_skipped_while_its_session_has_a_turn_under_way(autojump_clock: Autojump) -> None:
    reply = BlockingReply()
    model = FakeModel(in_turn(replies("ok"), reply, replies("ok")))
    async with open_scheduler(MemoryLog(), model, FakeWallClock(MONDAY), heartbeat_settings={"clerk": SAME}) as harness:
        await trio.sleep(1.5 * HOUR)
        handle = await harness.runtime.send(1, MessageRequest(content="a word with you"))
        await trio.sleep(HOUR)
        reply.released.set()
        await handle.wait_result()
        await trio.sleep(HOUR)
        assert await harness.outcomes() == [("ran", ""), ("skipped", "session 1 has a turn under way"), ("ran", "")]
        assert [row.news for row in await harness.rows()] == [True, False, True]


async def test_a_failed_tick_has_a_reason_and_a_cost_and_is_news(autojump_clock: Autojump) -> None:
    model = FakeModel(in_turn(fails(ModelFailed("provider_network", "No route.")), replies("")))
    async with open_scheduler(
        MemoryLog(), model, FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        await trio.sleep(2 * HOUR + 1)
        rows = await harness.rows()
        assert [(row.outcome, row.reason, row.news) for row in rows] == [
            ("failed", "provider_network: No route.", True),
            ("failed", "no_action: the model returned neither text nor tool calls", True),
        ]
        assert [row.ran for row in rows] == [
            TurnRef(session=1, turn=1, cost_usd=None),
            TurnRef(session=2, turn=1, cost_usd=0.0),
        ]
        assert [state.row.failures for state in harness.scheduler.states()] == [2]


async def test_a_tick_of_a_missing_agent_fails(autojump_clock: Autojump) -> None:
    async with open_scheduler(
        MemoryLog(), FakeModel(), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        await harness.reload_heartbeats({"ghost": HOURLY})
        await trio.sleep(HOUR + 1)
        [(outcome, reason)] = await harness.outcomes("heartbeat:ghost")
        assert (outcome, reason) == ("failed", "agent_not_found: there is no agent named 'ghost'")


async def test_the_model_is_called_only_if_the_probe_output_changed(autojump_clock: Autojump) -> None:
    log, clock, probe = MemoryLog(), FakeWallClock(MONDAY), FakeProbe("one")
    model = FakeModel()
    async with open_scheduler(log, model, clock, probe=probe, heartbeat_settings={"clerk": PROBING}):
        await trio.sleep(2 * HOUR + 1)
    async with open_scheduler(
        log := MemoryLog(log), model, clock, probe=probe, heartbeat_settings={"clerk": PROBING}
    ) as harness:
        await trio.sleep(HOUR)
        probe.output = "two"
        model.respond = fails(ModelFailed("provider_network", "No route."))
        await trio.sleep(HOUR)  # the output is new, and the agent has not answered to it
        model.respond = replies("ok")
        await trio.sleep(2 * HOUR)
        assert [outcome for outcome, _ in await harness.outcomes()] == [
            "ran",
            "skipped",
            "skipped",
            "failed",
            "ran",
            "skipped",
        ]
        assert await harness.scheduler.tick_now(NAME) == (await harness.rows())[-1], "a manual tick is skipped, too"
        assert (await harness.outcomes())[-1] == ("skipped", "the probe result is unchanged")
    assert (probe.calls, len(model.requests)) == (7, 3)


async def test_a_manual_tick_ignores_quiet_hours_the_breaker_and_a_pause(autojump_clock: Autojump) -> None:
    quiet = HeartbeatSettings(interval=60, quiet_hours=("00:00", "23:59"))
    model = FakeModel(fails(ModelFailed("provider_auth", "Refused.")))
    async with open_scheduler(
        MemoryLog(), model, FakeWallClock(MONDAY), heartbeat_settings={"clerk": quiet}
    ) as harness:
        await harness.scheduler.pause(NAME)
        await trio.sleep(60)
        failed = await harness.scheduler.tick_now(NAME)
        assert (failed.outcome, failed.by, failed.slot, failed.reason) == (
            "failed",
            "hand",
            MONDAY + 60,
            "provider_auth: Refused.",
        )
        [state] = harness.scheduler.states()
        assert state.row.closed_until == MONDAY + 60 + 2 * HOUR
        model.respond = replies("ok")
        assert (await harness.scheduler.tick_now(NAME)).outcome == "ran"
        assert state.row == ScheduleRow(name=NAME, paused=True, next_slot=MONDAY + HOUR)


async def test_a_manual_tick_outlives_its_caller_and_blocks_another_manual_tick(
    autojump_clock: Autojump,
) -> None:
    reply = BlockingReply()
    async with open_scheduler(
        MemoryLog(), FakeModel(reply), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        with trio.move_on_after(10):
            await harness.scheduler.tick_now(NAME)
        with pytest.raises(Problem) as error:
            await harness.scheduler.tick_now(NAME)
        assert (error.value.kind, error.value.message) == ("session_busy", f"{NAME} is already running a tick")
        await trio.sleep(HOUR)
        reply.released.set()
        await trio.sleep(HOUR)
        assert [(row.by, row.outcome, row.reason) for row in await harness.rows()] == [
            ("hand", "ran", ""),
            ("clock", "skipped", "the previous tick is still running"),
            ("clock", "ran", ""),
        ]


async def test_an_unknown_name_is_refused_with_the_nearest_name_as_a_hint(autojump_clock: Autojump) -> None:
    async with open_scheduler(
        MemoryLog(), FakeModel(), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        scheduler = harness.scheduler
        for call in (scheduler.tick_now, scheduler.pause, scheduler.resume, scheduler.history):
            for name in ("clerk", "heartbeat:clark"):
                with pytest.raises(Problem) as error:
                    await call(name)
                assert (error.value.kind, error.value.hint) == ("schedule_not_found", f"Did you mean {NAME}?")


async def test_a_new_interval_takes_effect_at_once_and_a_removed_heartbeat_begins_a_new_grid(
    autojump_clock: Autojump,
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    async with open_scheduler(log, FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(1.5 * HOUR)
        await harness.reload_heartbeats({"clerk": HeartbeatSettings(interval=10)})
        await trio.sleep(0.25 * HOUR)
        await harness.reload_heartbeats({"clerk": HeartbeatSettings(interval=120)})
        await trio.sleep(2.25 * HOUR)
        at = [(row.slot - MONDAY) / HOUR for row in await harness.rows()]
        assert at == pytest.approx([1, 1.5 + 1 / 6, 1.5 + 1 / 6 + 2])
        await harness.reload_heartbeats({})
        assert harness.scheduler.names == ()
        await trio.sleep(24 * HOUR)
    async with open_scheduler(MemoryLog(log), FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        restarted_at = clock.now()
        await trio.sleep(1.5 * HOUR)
        rows = await harness.rows()
        assert [row.outcome for row in rows] == ["ran"] * 4
        assert rows[-1].slot == pytest.approx(restarted_at + HOUR)


async def test_the_history_is_paged_newest_first_and_outlives_its_heartbeat(autojump_clock: Autojump) -> None:
    settings = {"clerk": HOURLY, "poet": HeartbeatSettings(interval=120)}
    async with open_scheduler(MemoryLog(), FakeModel(), FakeWallClock(MONDAY), heartbeat_settings=settings) as harness:
        await trio.sleep(4 * HOUR + 1)
        await harness.reload_heartbeats({"poet": settings["poet"]})
        rows = await harness.scheduler.history(NAME)
        assert [row.slot for row in rows] == [MONDAY + n * HOUR for n in (4, 3, 2, 1)]
        assert await harness.scheduler.history(NAME, before=rows[1].tick, limit=1) == [rows[2]]
        assert len(await harness.scheduler.history(None)) == 6
