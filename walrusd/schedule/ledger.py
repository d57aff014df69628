"""The ledger of ticks: records each slot before and after it runs.

It also closes the rows that a crash left open. A row is written as `running` before anything is done for its slot, and
the same transaction moves the schedule's next slot past it. So no slot is begun twice. The end of a tick is written
together with the schedule's new state and the daemon event `tick`.
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
from walrusd.store.errors import StorageFailed
from walrusd.store.tables.idempotency_key import read_session_created_with
from walrusd.store.tables.schedule import PutSchedule, ScheduleRow
from walrusd.store.tables.tick import PutTick
from walrusd.store.tables.turn import read_turn_span

log = structlog.get_logger("walrusd.schedule")

CRASHED_REASON = "walrusd ended unexpectedly during the tick"
STOPPED_REASON = "walrusd was stopped during the tick"
"""A stop writes this reason into the open row. An open row without it may be the cause of a crash."""

OnTickEvent = Callable[[str, AnyEvent], None]
"""Receives the agent's name and each `tick` event. Does not raise."""


class ScheduleState:
    """The current state of a schedule: its job, its row in the store and its last tick."""

    def __init__(self, job: Job, row: ScheduleRow, last_tick: Tick | None) -> None:
        self.job = job
        self.row = row
        self.last_tick = last_tick
        self.running = False
        """Whether a tick has begun and has not ended."""
        self.lock = trio.Lock()
        """Allows one change of the row at a time, so that each starts from the result of the one before."""
        self.change_finished = trio.Event()
        """Set when the current change is done; a new event then replaces it."""

    async def wait_idle(self) -> bool:
        """Waits until no change is under way, then returns True.

        A caller that then decides by `row` and writes without another wait decides by the current state.
        """
        while self.lock.locked():
            await self.change_finished.wait()
        return True


def with_next_slot(next_slot: float) -> Callable[[ScheduleRow], ScheduleRow]:
    return lambda row: replace(row, next_slot=next_slot)


class Ledger:
    """Writes the rows of all schedules and ticks."""

    def __init__(
        self, runtime: Runtime, daemon_recorder: DaemonRecorder, clock: WallClock, on_event: OnTickEvent
    ) -> None:
        self._runtime = runtime
        self._daemon_recorder = daemon_recorder
        self._clock = clock
        self._on_event = on_event
        self.failure: StorageFailed | None = None
        """The error of the last access to the store, or None if that succeeded."""

    def new_tick(self, state: ScheduleState, slot: float) -> Tick:
        """Returns a new tick, which is not written yet."""
        job, now = state.job, self._clock.now()
        number = self._daemon_recorder.next_tick()
        return Tick(ts=now, tick=number, schedule=job.name, agent=job.agent, slot=slot, outcome="running")

    async def write(
        self, state: ScheduleState, change: Callable[[ScheduleRow], ScheduleRow], tick: Tick | None = None
    ) -> None:
        """Writes the changed schedule, and the tick if there is one, in one transaction.

        If the tick is over, a `tick` event is recorded with it. Raises StorageFailed, with nothing changed.
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

    async def close_interrupted_ticks(
        self,
        open_ticks: list[Tick],
        find_state: Callable[[str], ScheduleState | None],
        reused_sessions: Collection[int],
    ) -> None:
        """Closes the rows that an earlier process left open, with the cost of their turns from the log.

        `reused_sessions` are those that heartbeats continue. Any other session was created for one tick and is closed.
        """
        async with trio.open_nursery() as nursery:
            for tick in open_ticks:
                close = partial(self._close_tick, tick, find_state(tick.schedule), reused_sessions)
                nursery.start_soon(self.retry_until_written, tick, close, name=f"tick {tick.tick}")

    async def retry_until_written(self, tick: Tick, write: Callable[[], Awaitable[None]]) -> None:
        """Writes the end of a tick, and retries every STORE_RETRY_S while the store cannot."""
        while True:
            try:
                await write()
            except StorageFailed as failure:
                self.report_failure(failure, tick.schedule)
                await trio.sleep(STORE_RETRY_S)
            else:
                return

    async def save_unconfigured(self, row: ScheduleRow) -> None:
        """Writes the row of a schedule that is not in the configuration; if that fails, only reports it."""
        try:
            await self._record(None, row)
        except StorageFailed as failure:
            self.report_failure(failure, row.name)

    def report_failure(self, failure: StorageFailed, schedule: str) -> None:
        self.failure = failure
        log.error(
            "ledger_write_failed", schedule=schedule, kind=failure.kind, error=str(failure), retry_s=STORE_RETRY_S
        )

    async def record_stop(self, tick: Tick) -> None:
        """Writes STOPPED_REASON into the open row, so that the next start counts no failure."""
        try:
            await self._record(replace(tick, reason=STOPPED_REASON), None)
        except StorageFailed as failure:
            self.report_failure(failure, tick.schedule)

    async def _close_tick(self, tick: Tick, state: ScheduleState | None, reused_sessions: Collection[int]) -> None:
        session = tick.ran.session if tick.ran else await self._find_own_session(tick)
        if session and session not in reused_sessions:
            # It is closed already, or is being closed, unless it has no message yet or its turn is still queued.
            with suppress(Problem):
                await self._runtime.close_session(session, force=True, by="heartbeat")
        ran = tick.ran and await self._wait_turn_cost(tick.ran)
        now, reason = self._clock.now(), tick.reason or CRASHED_REASON
        over = replace(tick, outcome="interrupted", reason=reason, ran=ran, news=True, ts=now, ended_at=now)
        if state and reason == CRASHED_REASON:
            retry_base_s = state.job.retry_base_s
            count_failure = partial(breaker.after_failure, retry_base_s=retry_base_s, now=now, opens_breaker=False)
            await self.write(state, count_failure, over)
        else:
            await self._record(over, None)
        if state and state.last_tick and state.last_tick.tick == tick.tick:
            state.last_tick = over

    async def _find_own_session(self, tick: Tick) -> int | None:
        """Returns the session that the tick had created before its row could name it, or None if it had none."""
        found = await self._runtime.log.read(read_session_created_with, idempotency_key_for(tick))
        return found[0] if found else None

    async def _wait_turn_cost(self, ran: TurnRef) -> TurnRef | None:
        """Waits for the end of the turn and returns it with its cost, or None if it never begins."""
        log, session_cache = self._runtime.log, self._runtime.session_cache
        async with session_cache.pin(ran.session):  # retention must not delete it before its cost is read
            try:
                async with session_cache.lease(ran.session) as live:
                    while _is_turn_pending(ran, live):
                        await live.stream.wait_next_event()
            except Problem:
                return ran  # its log cannot be read, so the cost is unknown
            span = await log.read(read_turn_span, ran.session, ran.turn)
            if span is None or span.last_seq is None:
                return None
            [row] = await log.events(ran.session, span.last_seq - 1, 1)
        done = decode_row(row.body)
        return replace(ran, cost_usd=done.cost_usd) if isinstance(done, Done) else ran

    async def _record(self, tick: Tick | None, row: ScheduleRow | None) -> None:
        over = tick if tick and tick.outcome != "running" else None
        changes = (*([PutTick(tick)] if tick else []), *([PutSchedule(row)] if row else []))
        await self._daemon_recorder.record(*([over] if over else []), mutations=changes)
        self.failure = None
        if over:
            self._on_event(over.agent, over)
            _log_tick(over)


def _is_turn_pending(ran: TurnRef, live: LiveSession) -> bool:
    """Returns whether the turn is running or still queued in the inbox."""
    if (turn := live.session.turn) and turn.number <= ran.turn:
        return True
    return live.session.state.turns < ran.turn and bool(live.inbox.entries)


def _log_tick(tick: Tick) -> None:
    """Logs the canonical line of a tick: at level info if it is news, else at debug."""
    log_line = log.info if tick.news else log.debug
    log_line(
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
