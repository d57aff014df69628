"""Tests of ticks interrupted by a stop, a power cut or a full disk: no slot is paid for twice."""

from collections import Counter
from collections.abc import Callable

import pytest
import trio

from tests.fakes.clock import FakeWallClock
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel, replies
from tests.fakes.stepped_log import Step, SteppedMemoryLog, fail_from, never_stop
from tests.fakes.stores import commit, write
from tests.schedule.scheduler_harness import HOUR, MONDAY, NAME, FakeProbe, open_scheduler
from walrus_config.schema import HeartbeatSettings
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import TurnRef
from walrus_protocol.problems import Problem
from walrusd.ports import ModelRequest, OnChunk, Reply, TextChunk
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.schedule.probe import ProbeResult
from walrusd.store.contract import Write
from walrusd.store.errors import StorageFailed, StorageFull
from walrusd.store.expiry import ExpireSession
from walrusd.store.tables.tick import read_ticks
from walrusd.store.tables.turn import read_turn_span

HOURLY = HeartbeatSettings(interval=60, prompt="Look around.")
SAME = HeartbeatSettings(interval=60, prompt="Look around.", session="same")

Autojump = trio.abc.Clock


class PowerCutLog(SteppedMemoryLog):
    """A log that loses power after `writes` writes: the next write and all later ones are never done."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.power_lost = trio.Event()
        self._writes = writes
        self.on_step = self._lose_power

    def _lose_power(self, number: int, step: Step, _write: Write) -> StorageFailed | None:
        if step != "before" or number <= self._writes:
            return None
        self.power_lost.set()
        return StorageFailed("no power")


async def test_a_tick_suspended_by_a_stop_is_recorded_at_the_next_start(autojump_clock: Autojump) -> None:
    log, clock, reply = MemoryLog(), FakeWallClock(MONDAY), BlockingReply(text_before="I am look")
    async with open_scheduler(log, FakeModel(reply), clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(HOUR + 1)
        assert [(row.outcome, row.ran) for row in await harness.rows()] == [("running", TurnRef(session=1, turn=1))]
    assert [row.outcome for row in await log.read(read_ticks)] == ["running"]
    async with open_scheduler(MemoryLog(log), FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(HOUR)
        first, second = await harness.rows()
        assert (first.outcome, first.reason, first.ran, first.news, first.ended_at) == (
            "interrupted",
            "walrusd was stopped during the tick",
            TurnRef(session=1, turn=1, cost_usd=None),
            True,
            MONDAY + HOUR + 1,
        )
        assert second.outcome == "ran"
        assert [state.row.failures for state in harness.scheduler.states()] == [0]
        assert (await harness.runtime.session(1)).state == "closed"


async def test_a_tick_that_waited_for_a_slot_is_recorded_as_interrupted_after_a_restart(
    autojump_clock: Autojump,
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    settings = {"clerk": HOURLY, "poet": HeartbeatSettings(interval=61)}
    async with open_scheduler(log, FakeModel(BlockingReply()), clock, heartbeat_settings=settings, max_running_turns=1):
        await trio.sleep(1.5 * HOUR)
    model = FakeModel(BlockingReply())
    async with open_scheduler(
        MemoryLog(log), model, clock, heartbeat_settings=settings, max_running_turns=1
    ) as harness:
        await trio.sleep(60)
        [row] = await harness.rows("heartbeat:poet")
        assert (row.outcome, row.ran and row.ran.session) == ("interrupted", 2)
        assert (await harness.runtime.session(2)).state == "closed"
        await trio.sleep(60)
    assert len(model.requests) <= 1, "a request from before the close of the row was cancelled"


@pytest.mark.parametrize(
    "after", [HeartbeatSettings(interval=0), HOURLY, SAME], ids=["off", "a new one each", "the same"]
)
async def test_a_reused_session_stays_open_after_an_interrupted_tick(
    autojump_clock: Autojump, after: HeartbeatSettings
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    async with open_scheduler(log, FakeModel(BlockingReply()), clock, heartbeat_settings={"clerk": SAME}) as harness:
        await trio.sleep(HOUR + 1)
        await harness.runtime.send(1, MessageRequest(content="A question from a person"))
    async with open_scheduler(MemoryLog(log), FakeModel(), clock, heartbeat_settings={"clerk": after}) as harness:
        await trio.sleep(60)
        assert await harness.outcomes() == [("interrupted", "walrusd was stopped during the tick")]
        assert (await harness.runtime.session(1)).state == "idle"


async def test_a_turn_resumed_after_a_restart_has_its_cost_in_its_row(autojump_clock: Autojump) -> None:
    async def slow(_: ModelRequest, __: OnChunk) -> Reply:
        await trio.sleep(HOUR / 2)
        return Reply(content="done", cost_usd=0.25)

    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    settings = {"poet": HeartbeatSettings(interval=59), "clerk": SAME}
    async with open_scheduler(log, FakeModel(BlockingReply()), clock, heartbeat_settings=settings, max_running_turns=1):
        await trio.sleep(HOUR + 1)
    async with open_scheduler(
        MemoryLog(log), FakeModel(slow), clock, heartbeat_settings=settings, max_running_turns=1
    ) as harness:
        await trio.sleep(60)
        [row] = await harness.rows()
        assert (row.outcome, row.ran) == ("running", TurnRef(session=2, turn=1))
        await trio.sleep(HOUR / 2)
        [row] = await harness.rows()
        assert (row.outcome, row.ran) == ("interrupted", TurnRef(session=2, turn=1, cost_usd=0.25))


async def test_a_session_is_not_deleted_while_the_cost_of_its_interrupted_tick_is_read(
    autojump_clock: Autojump, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, clock = MemoryLog(), FakeWallClock(MONDAY)
    async with open_scheduler(log, FakeModel(BlockingReply()), clock, heartbeat_settings={"clerk": HOURLY}):
        await trio.sleep(HOUR + 1)
    log = MemoryLog(log)
    runtimes: list[Runtime] = []

    async def read_after_deletion(query: Callable[..., object], *args: object, **named: object) -> object:
        if query is read_turn_span:
            with runtimes[0].session_cache.try_delete([1]) as chosen:
                await commit(log, write(session=DAEMON_SESSION, mutations=[*map(ExpireSession, chosen)]))
        return await MemoryLog.read(log, query, *args, **named)

    monkeypatch.setattr(log, "read", read_after_deletion)
    async with open_scheduler(log, FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        runtimes.append(harness.runtime)
        await trio.sleep(60)
        [row] = await harness.rows()
        assert (row.outcome, row.ran) == ("interrupted", TurnRef(session=1, turn=1, cost_usd=None))


async def test_a_turn_that_ends_within_the_grace_period_has_its_row(autojump_clock: Autojump) -> None:
    async def slow(_: ModelRequest, __: OnChunk) -> Reply:
        await trio.sleep(5)
        return Reply(content="done", cost_usd=0.25)

    log = MemoryLog()
    async with open_scheduler(
        log, FakeModel(slow), FakeWallClock(MONDAY), grace_s=10, heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        await trio.sleep(HOUR + 1)
    [row] = await log.read(read_ticks)
    assert (row.outcome, row.text, row.ran) == ("ran", "done", TurnRef(session=1, turn=1, cost_usd=0.25))
    assert harness.scheduler.names == (NAME,)


async def test_a_stop_cancels_a_probe_and_begins_no_turn(autojump_clock: Autojump) -> None:
    async def hangs(command: str, folder: str) -> ProbeResult:
        await trio.sleep_forever()
        raise AssertionError

    log, model = MemoryLog(), FakeModel()
    settings = HeartbeatSettings(interval=60, probe="sleep infinity")
    async with open_scheduler(
        log, model, FakeWallClock(MONDAY), probe=hangs, grace_s=1000, heartbeat_settings={"clerk": settings}
    ):
        await trio.sleep(HOUR + 1)
    assert trio.current_time() == HOUR + 1, "the grace period of turns does not apply to a probe"
    assert [(row.outcome, row.reason) for row in await log.read(read_ticks)] == [("skipped", "walrusd is stopping")]
    assert model.requests == []


async def test_a_manual_tick_fails_with_shutting_down_on_a_stop(autojump_clock: Autojump) -> None:
    kinds: list[str] = []

    async def tick_manually() -> None:
        with pytest.raises(Problem) as error:
            await harness.scheduler.tick_now(NAME)
        kinds.append(error.value.kind)

    async with trio.open_nursery() as nursery:
        async with open_scheduler(
            MemoryLog(), FakeModel(BlockingReply()), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}
        ) as harness:
            nursery.start_soon(tick_manually)
            await trio.sleep(1)
        nursery.start_soon(tick_manually)
    assert kinds == ["shutting_down", "shutting_down"]


@pytest.mark.parametrize(
    "settings", [HOURLY, SAME, HeartbeatSettings(interval=60, probe="ls")], ids=["new", "same", "probing"]
)
async def test_a_power_cut_at_any_write_runs_no_slot_twice_and_records_every_slot(
    autojump_clock: Autojump, settings: HeartbeatSettings
) -> None:
    for writes in range(1, 30):
        clock, paid = FakeWallClock(MONDAY), list[int]()

        async def pays(_: ModelRequest, say: OnChunk, clock: FakeWallClock = clock, paid: list[int] = paid) -> Reply:
            say(TextChunk("half"))
            await trio.sleep(1)
            paid.append(int((clock.now() - MONDAY) // HOUR))
            return Reply(content="HEARTBEAT_OK", cost_usd=0.01)

        log = PowerCutLog(writes)
        with trio.move_on_after(2.5 * HOUR):
            async with open_scheduler(
                log, FakeModel(pays), clock, probe=ChangingProbe(), heartbeat_settings={"clerk": settings}
            ):
                await log.power_lost.wait()
                log.kill()
        async with open_scheduler(
            MemoryLog(log), FakeModel(pays), clock, probe=ChangingProbe(), heartbeat_settings={"clerk": settings}
        ) as harness:
            await trio.sleep(MONDAY + 4.5 * HOUR - clock.now())
            rows = await harness.rows()
            sessions = await harness.runtime.sessions()
        slots = [round((row.slot - MONDAY) / HOUR) + n for row in rows for n in range(row.count)]
        assert slots == [1, 2, 3, 4], f"after {writes} writes"
        assert not [row for row in rows if row.outcome == "running"], f"after {writes} writes"
        assert max(Counter(paid).values()) == 1, f"after {writes} writes"
        assert len(sessions) <= (settings.session == "same"), "only the reused session is open"


@pytest.mark.parametrize("crash", [True, False])
async def test_three_crashes_during_ticks_open_the_breaker_and_three_stops_do_not(
    autojump_clock: Autojump, crash: bool
) -> None:
    clock, log = FakeWallClock(MONDAY), MemoryLog()
    for _ in range(3):
        log = MemoryLog(log)
        async with open_scheduler(log, FakeModel(BlockingReply()), clock, heartbeat_settings={"clerk": HOURLY}):
            await trio.sleep(HOUR + 1)
            if crash:
                log.kill()
    async with open_scheduler(MemoryLog(log), FakeModel(), clock, heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(60)
        [state] = harness.scheduler.states()
        assert (state.row.failures, state.row.closed_until is not None) == ((3, True) if crash else (0, False))
        ended = "ended unexpectedly" if crash else "was stopped"
        assert await harness.outcomes() == [("interrupted", f"walrusd {ended} during the tick")] * 3


class ChangingProbe:
    """A probe with a different digest at each call."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, command: str, folder: str) -> ProbeResult:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        return ProbeResult(exit_status=0, output="", digest=f"{id(self)} {self.calls}")


async def test_a_full_disk_prevents_ticks_and_the_ledger_records_them_as_missed_later(
    autojump_clock: Autojump,
) -> None:
    log, model = MemoryLog(), FakeModel()
    async with open_scheduler(log, model, FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}) as harness:
        await trio.sleep(HOUR / 2)
        log.fail_with = StorageFull("no space left")
        await trio.sleep(2 * HOUR)
        with pytest.raises(Problem) as error:
            await harness.scheduler.tick_now(NAME)
        assert error.value.kind == "storage_full"
        assert model.requests == []
        log.fail_with = None
        await trio.sleep(HOUR)
        rows = [(row.outcome, row.slot, row.count) for row in await harness.rows()]
        assert rows == [("missed", MONDAY + HOUR, 2), ("ran", MONDAY + 3 * HOUR, 1)]


async def test_the_row_of_a_turn_that_ended_on_a_full_disk_is_written_when_there_is_space(
    autojump_clock: Autojump,
) -> None:
    log, reply = MemoryLog(), BlockingReply()
    async with open_scheduler(
        log, FakeModel(reply), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        await trio.sleep(HOUR + 1)
        log.fail_with = StorageFull("no space left")
        reply.released.set()
        await trio.sleep(600)
        assert [row.outcome for row in await harness.rows()] == ["running"]
        log.fail_with = None
        await trio.sleep(60)
        [row] = await harness.rows()
        assert (row.outcome, row.reason, row.ran) == (
            "failed",
            "storage_full: cannot write to :memory:: no space left",
            TurnRef(session=1, turn=1, cost_usd=None),
        )


async def test_a_disk_that_fills_up_at_any_write_of_a_tick_leaves_no_session_open(
    autojump_clock: Autojump,
) -> None:
    for writes in range(10):
        log = SteppedMemoryLog()
        async with open_scheduler(
            log, FakeModel(), FakeWallClock(MONDAY), heartbeat_settings={"clerk": HOURLY}
        ) as harness:
            await trio.sleep(HOUR / 2)
            log.on_step = fail_from(log.write_count + writes + 1, StorageFull("no space left"))
            await trio.sleep(HOUR)
            log.on_step = never_stop
            await trio.sleep(120)
            assert await harness.runtime.sessions() == [], f"after {writes} writes"
            assert [outcome for outcome, _ in await harness.outcomes()] in (["missed"], ["failed"], ["ran"])


async def test_a_daemon_that_starts_on_a_full_disk_ticks_when_there_is_space(autojump_clock: Autojump) -> None:
    log, model = MemoryLog(), FakeModel(replies("HEARTBEAT_OK"))
    log.fail_with = StorageFull("no space left")
    async with open_scheduler(
        log, model, FakeWallClock(MONDAY), probe=FakeProbe(), heartbeat_settings={"clerk": HOURLY}
    ) as harness:
        await trio.sleep(60)
        log.fail_with = None
        await trio.sleep(HOUR)
        assert [(row.outcome, row.slot) for row in await harness.rows()] == [("ran", MONDAY + HOUR)]
