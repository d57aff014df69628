"""The scheduler: one task sleeps until the next slot of any schedule, and each tick has its own task."""

import difflib
import math
import time
from collections.abc import Sequence

import structlog
import trio
from msgspec.structs import replace

from walrus_protocol.content import TickTrigger
from walrus_protocol.events import Tick
from walrus_protocol.problems import Problem
from walrusd.ports import WallClock
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.schedule import breaker
from walrusd.schedule.job import STORE_RETRY_S, Job
from walrusd.schedule.ledger import Ledger, OnTickEvent, ScheduleState, with_next_slot
from walrusd.schedule.slot_policy import RecordMissed, Reschedule, RunSlot, SkipSlot, WaitUntil
from walrusd.schedule.tick_run import TickRun, stopping_problem
from walrusd.store.errors import StorageFailed
from walrusd.store.tables.schedule import ScheduleRow, read_schedules
from walrusd.store.tables.tick import read_running_ticks, read_ticks

MISSED_REASON = "walrusd or the machine was off, the clock was set forward, or the ledger could not be written"
UNSCHEDULED = 0.0
"""Next slot of a schedule that is not configured any more. If it is added again, a new grid begins."""
FINAL_WRITES_TIMEOUT_S = 5.0
"""Maximum seconds that a stop waits for ticks to write their last row after their turns have ended."""
RETRY_AFTER_MS = 1000
"""Milliseconds after which a client may retry a manual tick that was refused as busy."""
Ready = trio.TaskStatus[None]

log = structlog.get_logger("walrusd.schedule")


class Scheduler:
    """Runs the schedules: start `run_scheduler` once the runtime has recovered.

    `on_event` receives each `tick` event of the ledger.
    """

    def __init__(
        self,
        runtime: Runtime,
        daemon_recorder: DaemonRecorder,
        clock: WallClock,
        on_event: OnTickEvent = lambda _, __: None,
    ) -> None:
        self._store = runtime.log
        self._clock = clock
        self._ledger = Ledger(runtime, daemon_recorder, clock, on_event)
        self._states: dict[str, ScheduleState] = {}
        self._tick_runs: set[TickRun] = set()
        self._stopping = False
        self._run_scope = trio.CancelScope()
        self._sleep_scope = trio.CancelScope()
        self._finished = trio.Event()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._states)

    async def run_scheduler(self, jobs: Sequence[Job], *, task_status: Ready = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the schedules until `stop` is called and the last tick is over."""
        try:
            async with trio.open_nursery() as self._nursery:
                open_ticks = await self._store.read(read_running_ticks)
                reused_sessions = {row.session for row in await self._store.read(read_schedules) if row.session}
                await self.configure(jobs)
                close = self._ledger.close_interrupted_ticks
                self._nursery.start_soon(close, open_ticks, self._states.get, reused_sessions)
                task_status.started()
                with self._run_scope:
                    await self._run_loop()
        finally:
            self._finished.set()

    def stop(self) -> None:
        """Begins no more turns. Turns under way are ended or suspended by the runtime."""
        self._stopping = True
        self._run_scope.cancel()
        for tick_run in self._tick_runs:
            tick_run.cancel()

    async def wait_finished(self) -> None:
        """Waits until each tick whose turn is over has its row, for FINAL_WRITES_TIMEOUT_S at most."""
        with trio.move_on_after(FINAL_WRITES_TIMEOUT_S):
            await self._finished.wait()
        self._nursery.cancel_scope.cancel()

    async def configure(self, jobs: Sequence[Job]) -> None:
        """Replaces the schedules. Those that stay keep their state, and running ticks finish as they began.

        Raises StorageFailed, with nothing changed, if the store cannot be read. A failed write is reported and repeated
        with the next one.
        """
        # A removed schedule whose tick still runs continues with the same state if it is added again.
        running = {run.state.row.name: run.state for run in self._tick_runs if not run.finished.is_set()}
        before = running | self._states
        rows = {row.name: row for row in await self._store.read(read_schedules)}
        after = {job.name: before.get(job.name) or await self._load_state(job, rows.get(job.name)) for job in jobs}
        for job in jobs:
            await self._replace_job(after[job.name], job)
        self._states = after
        self._sleep_scope.cancel()
        for name, row in rows.items():
            if name in after:
                continue
            if removed := before.get(name):
                await self._set_next_slot(removed, UNSCHEDULED)
            elif row.next_slot != UNSCHEDULED:
                await self._ledger.save_unconfigured(replace(row, next_slot=UNSCHEDULED))

    async def _load_state(self, job: Job, row: ScheduleRow | None) -> ScheduleState:
        last = await self._store.read(read_ticks, job.name, limit=1)
        return ScheduleState(job, row or ScheduleRow(name=job.name, next_slot=UNSCHEDULED), last[0] if last else None)

    async def _replace_job(self, state: ScheduleState, job: Job) -> None:
        await state.wait_idle()
        now = self._clock.now()
        if state.row.next_slot == UNSCHEDULED:
            await self._set_next_slot(state, job.next_after(now))
        elif (moved := job.moved_slot(state.job, state.row.next_slot, now)) != state.row.next_slot:
            await self._set_next_slot(state, moved)
        state.job = job

    async def _set_next_slot(self, state: ScheduleState, next_slot: float) -> None:
        """Sets the next slot. If it cannot be written now, the next write of this schedule includes it."""
        try:
            await self._ledger.write(state, with_next_slot(next_slot))
        except StorageFailed as failure:
            self._ledger.report_failure(failure, state.row.name)
            state.row = replace(state.row, next_slot=next_slot)

    async def _run_loop(self) -> None:
        while True:
            self._sleep_scope = trio.CancelScope()
            times = [await self._process_or_retry_later(state) for state in self._states.values()]
            with self._sleep_scope:
                await self._wait_until(min(times, default=math.inf))

    async def _wait_until(self, when: float) -> None:
        """Waits until the clock shows `when`; it may return earlier."""
        if when == math.inf:
            await trio.sleep_forever()
        try:
            await self._clock.wait_until(when)
        except OSError as error:  # no descriptor is free for the timer
            log.warning("clock_wait_failed", error=str(error))
            await trio.sleep(min(max(when - self._clock.now(), 0.0), STORE_RETRY_S))

    async def _process_or_retry_later(self, state: ScheduleState) -> float:
        """Does what is due; returns when to check again, which is later if the store cannot write."""
        try:
            return await self._process_due(state)
        except StorageFailed as failure:
            self._ledger.report_failure(failure, state.row.name)
            return self._clock.now() + STORE_RETRY_S  # by then the slot is late or missed, and the ledger records that

    async def _process_due(self, state: ScheduleState) -> float:
        """Does what is due; returns when to check the schedule again.

        Raises StorageFailed, with the rest not done.
        """
        while await state.wait_idle() and self._states.get(state.row.name) is state:
            match state.job.next_decision(state.row, self._clock.now(), running=state.running):
                case WaitUntil(until):
                    return until
                case Reschedule(next_slot):
                    await self._ledger.write(state, with_next_slot(next_slot))
                case RunSlot(slot, next_slot):
                    tick_run = self._new_tick_run(state, slot, by="clock")
                    await tick_run.claim(next_slot)
                    self._nursery.start_soon(tick_run.run, name=f"tick {tick_run.tick.tick}")
                case SkipSlot(slot, reason, next_slot):
                    tick = replace(self._ledger.new_tick(state, slot), outcome="skipped", reason=reason)
                    await self._ledger.write(state, with_next_slot(next_slot), tick)
                case RecordMissed(slot, count, next_slot):
                    row = self._ledger.new_tick(state, slot)
                    tick = replace(row, outcome="missed", reason=MISSED_REASON, count=count)
                    await self._ledger.write(state, with_next_slot(next_slot), tick)
        return math.inf

    def states(self) -> tuple[ScheduleState, ...]:
        """Returns the current state of every schedule."""
        return tuple(self._states.values())

    def breaker_open_until(self, state: ScheduleState) -> float | None:
        """Returns the time at which its breaker closes, or None if it is closed."""
        return state.row.closed_until if breaker.is_open(state.row, self._clock.now()) else None

    def warnings(self) -> tuple[str, ...]:
        """Returns one line for each current reason that keeps ticks from running."""
        found = []
        if failure := self._ledger.failure:
            found.append(f"The ledger cannot be written, so no heartbeat runs: {failure}. Is the disk full?")
        for state in self.states():
            name = state.row.name
            if state.row.paused:
                found.append(f"{name} is paused. `walrusctl schedule resume {name}` resumes it.")
            elif until := self.breaker_open_until(state):
                at = time.strftime("%a %H:%M", time.localtime(until))
                found.append(
                    f"{name} has failed and is skipped until {at}. `walrusctl schedule resume {name}` ends that sooner."
                )
        return tuple(found)

    async def pause(self, name: str) -> ScheduleState:
        """Skips every slot until `resume`; each still gets its row.

        Raises Problem schedule_not_found, StorageFailed.
        """
        state = self._find(name)
        await self._ledger.write(state, lambda row: replace(row, paused=True))
        return state

    async def resume(self, name: str) -> ScheduleState:
        """Ends a pause and closes the breaker. Raises Problem schedule_not_found, StorageFailed."""
        state = self._find(name)
        await self._ledger.write(state, lambda row: replace(breaker.reset(row), paused=False))
        return state

    async def tick_now(self, name: str) -> Tick:
        """Runs a tick now and waits for its result. Cancelling the wait does not cancel the tick.

        Raises Problem (schedule_not_found, session_busy, shutting_down, storage_full, storage_failed).
        """
        state = self._find(name)
        if self._stopping:
            raise stopping_problem()
        if state.running:
            raise Problem(
                "session_busy",
                f"{name} is already running a tick",
                "Wait until it has ended: `walrusctl schedule history` shows it.",
                retry_after_ms=RETRY_AFTER_MS,
            )
        tick_run = self._new_tick_run(state, self._clock.now(), by="hand")
        self._nursery.start_soon(self._run_manually, tick_run, name=f"tick {tick_run.tick.tick}")
        await tick_run.finished.wait()
        return tick_run.result()

    async def history(
        self, name: str | None, *, before: int | None = None, news: bool = False, limit: int = 50
    ) -> list[Tick]:
        """Returns rows of the ledger, newest first, also of removed schedules.

        Raises Problem schedule_not_found.
        """
        found = await self._store.read(read_ticks, name, before=before, news=news, limit=limit)
        if name is not None and not found and not await self._store.read(read_ticks, name, limit=1):
            self._find(name)
        return found

    async def _run_manually(self, tick_run: TickRun) -> None:
        try:
            await tick_run.claim()
        except StorageFailed as failure:
            tick_run.claim_error = failure
        else:
            await tick_run.run()

    def _new_tick_run(self, state: ScheduleState, slot: float, *, by: TickTrigger) -> TickRun:
        tick_run = TickRun(state, self._ledger, self._clock.now, slot=slot, by=by)
        self._tick_runs = {run for run in self._tick_runs if not run.finished.is_set()} | {tick_run}
        return tick_run

    def _find(self, name: str) -> ScheduleState:
        """Returns the schedule of this name. Raises Problem schedule_not_found with a hint."""
        if state := self._states.get(name):
            return state
        same_agent = [known for known in self._states if known.endswith(f":{name}")]
        nearest = same_agent or difflib.get_close_matches(name, self._states, n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else "`walrusctl schedule list` lists all schedules."
        raise Problem("schedule_not_found", f"there is no schedule named {name!r}", hint)
