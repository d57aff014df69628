"""The ledger: what became of every slot, written down before and after it, and what a crash left open.

A row is `running` before anything is done for its slot, and the schedule's next slot is past it in that same
transaction: what was begun once is not begun again. Its end comes with the schedule's new state and the fact `tick`.
"""

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial

import structlog
import trio
from msgspec.structs import replace

from walrus_protocol.events import AnyEvent, Done, Tick, TurnRef, decode_row
from walrus_protocol.problems import Problem
from walrusd.ports import WallClock
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.schedule import breaker
from walrusd.schedule.job import STORE_RETRY_S, Job, idempotency_key_for
from walrusd.store.contract import ScheduleRow, StorageFailed

log = structlog.get_logger("walrusd.schedule")

CRASHED_REASON = "walrusd ended while it ran"
STOPPED_REASON = "walrusd was stopped while it ran"
"""Written into the row by the stop itself: a tick that says nothing of the kind may be what walrusd died of."""

OnTickEvent = Callable[[str, AnyEvent], None]
"""Shown every fact of an agent's ticks. Does not raise."""


class ScheduleState:
    """A schedule as it stands: what is to be done, its row in the store, and its last tick."""

    def __init__(self, job: Job, row: ScheduleRow, last_tick: Tick | None) -> None:
        self.job = job
        self.row = row
        self.last_tick = last_tick
        self.running = False
        """A tick has been begun and has not ended."""
        self.lock = trio.Lock()
        """One change at a time: each begins with what the one before it has left."""
        self.change_finished = trio.Event()
        """Set when the change under way is over; the next has another."""

    async def wait_idle(self) -> bool:
        """True, once no change is under way. Who then decides by `row`, and writes at once, decides by what is so."""
        while self.lock.locked():
            await self.change_finished.wait()
        return True


def with_next_slot(next_slot: float) -> Callable[[ScheduleRow], ScheduleRow]:
    return lambda row: replace(row, next_slot=next_slot)


class Ledger:
    """Writes for all schedules."""

    def __init__(
        self, runtime: Runtime, daemon_recorder: DaemonRecorder, clock: WallClock, on_event: OnTickEvent
    ) -> None:
        self._runtime = runtime
        self._daemon_recorder = daemon_recorder
        self._clock = clock
        self._on_event = on_event
        self.failure: StorageFailed | None = None
        """Why it could not be written, or read, when that was tried last; None where it could."""

    def new_tick(self, state: ScheduleState, slot: float) -> Tick:
        """A new one, not written yet."""
        job, now = state.job, self._clock.now()
        number = self._daemon_recorder.next_tick()
        return Tick(ts=now, tick=number, schedule=job.name, agent=job.agent, slot=slot, outcome="running")

    async def write(
        self, state: ScheduleState, change: Callable[[ScheduleRow], ScheduleRow], tick: Tick | None = None
    ) -> None:
        """The schedule changed, and with it what became of a tick, in one transaction; a tick that is over is a fact.

        Raises StorageFailed, with nothing changed.
        """
        async with state.lock:
            try:
                row = change(state.row)
                await self._record(tick, row)
                state.row = row
                if tick and (state.last_tick is None or tick.tick >= state.last_tick.tick):
                    state.last_tick = tick
            finally:
                state.change_finished.set()
                state.change_finished = trio.Event()

    async def write_with_retry(
        self, state: ScheduleState, change: Callable[[ScheduleRow], ScheduleRow], tick: Tick
    ) -> None:
        """As `write`, and again and again where the store cannot."""
        await self._retry_until_written(tick, partial(self.write, state, change, tick))

    async def close_interrupted_ticks(
        self,
        open_ticks: list[Tick],
        find_state: Callable[[str], ScheduleState | None],
        reused_sessions: Collection[int],
    ) -> None:
        """Close the rows that an earlier process left open, with what the log knows of their turns.

        `used_again`: the sessions in which heartbeats go on. Others were made for a tick, and end with it.
        """
        async with trio.open_nursery() as nursery:
            for tick in open_ticks:
                end = partial(self._close_tick, tick, find_state(tick.schedule), reused_sessions)
                nursery.start_soon(self._retry_until_written, tick, end, name=f"tick {tick.tick}")

    async def _retry_until_written(self, tick: Tick, write: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await write()
            except StorageFailed as failure:
                self.report_failure(failure, tick.schedule)
                await trio.sleep(STORE_RETRY_S)
            else:
                return

    async def save_unconfigured(self, row: ScheduleRow) -> None:
        """Write the state of a schedule that nothing stands for; where that cannot be done now, leave it."""
        try:
            await self._record(None, row)
        except StorageFailed as failure:
            self.report_failure(failure, row.name)

    def report_failure(self, failure: StorageFailed, schedule: str) -> None:
        self.failure = failure
        log.error("ledger not written", schedule=schedule, kind=failure.kind, error=str(failure), retry_s=STORE_RETRY_S)

    async def record_stop(self, tick: Tick) -> None:
        """For the next start: a tick that is cut off by a stop has failed in nothing."""
        try:
            await self._record(replace(tick, reason=STOPPED_REASON), None)
        except StorageFailed as failure:
            self.report_failure(failure, tick.schedule)

    async def _close_tick(self, tick: Tick, state: ScheduleState | None, reused_sessions: Collection[int]) -> None:
        made = tick.ran.session if tick.ran else await self._find_own_session(tick)
        if made and made not in reused_sessions:
            # It is closed, or about to be, unless nobody has spoken in it, or the turn still waits.
            with suppress(Problem):
                await self._runtime.close_session(made, force=True, by="heartbeat")
        ran = tick.ran and await self._wait_turn_cost(tick.ran)
        now, reason = self._clock.now(), tick.reason or CRASHED_REASON
        over = replace(tick, outcome="interrupted", reason=reason, ran=ran, news=True, ts=now, ended_at=now)
        if state and reason == CRASHED_REASON:
            failed = partial(breaker.after_failure, every_s=state.job.every_s, now=now, opens_breaker=False)
            await self.write(state, failed, over)
        else:
            await self._record(over, None)
        if state and state.last_tick and state.last_tick.tick == tick.tick:
            state.last_tick = over

    async def _find_own_session(self, tick: Tick) -> int | None:
        """The session of its own that it had made when it was cut off, before its row could name it."""
        made = await self._runtime.log.session_created_with(idempotency_key_for(tick))
        return made[0] if made else None

    async def _wait_turn_cost(self, ran: TurnRef) -> TurnRef | None:
        """The turn with what it cost, once it has ended; None where there is none, and none to come."""
        try:
            live = await self._runtime.live_session(ran.session)
        except Problem:
            return ran  # its log cannot be read: what it cost is not known
        while _is_turn_pending(ran, live):
            await live.stream.wait_next_event()
        log = self._runtime.log
        span = await log.turn_span(ran.session, ran.turn)
        if span is None or span.last_seq is None:
            return None
        [row] = await log.events(ran.session, span.last_seq - 1, 1)
        done = decode_row(row.body)
        return replace(ran, cost_usd=done.cost_usd) if isinstance(done, Done) else ran

    async def _record(self, tick: Tick | None, row: ScheduleRow | None) -> None:
        over = tick if tick and tick.outcome != "running" else None
        await self._daemon_recorder.record(*([over] if over else []), ticks=[tick] if tick else [], schedule=row)
        self.failure = None
        if over:
            self._on_event(over.agent, over)
            _log_tick(over)


def _is_turn_pending(ran: TurnRef, live: LiveSession) -> bool:
    """Whether the turn's end is: it is open, or waits in the inbox."""
    if (turn := live.session.turn) and turn.number <= ran.turn:
        return True
    return live.session.state.turns < ran.turn and bool(live.inbox)


def _log_tick(tick: Tick) -> None:
    """The canonical line of a tick. Where there is no news, it is only seen at debug."""
    say = log.info if tick.news else log.debug
    say(
        "tick",
        schedule=tick.schedule,
        tick=tick.tick,
        outcome=tick.outcome,
        reason=tick.reason,
        count=tick.count,
        by=tick.by,
        session=tick.ran and tick.ran.session,
        turn=tick.ran and tick.ran.turn,
        cost_usd=tick.ran and tick.ran.cost_usd,
    )
