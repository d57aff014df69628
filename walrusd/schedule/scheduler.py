"""What is done by the clock: one task that sleeps until the next slot of all, and the ticks beside it."""

import difflib
import math
import time
from collections.abc import Iterable

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
from walrusd.schedule.slot_policy import RecordMissed, Reschedule, RunSlot, SkipSlot, WaitUntil, recompute_next_slot
from walrusd.schedule.tick_run import TickRun, stopping_problem
from walrusd.store.contract import ScheduleRow, StorageFailed

MISSED_REASON = "walrusd or the machine was off, the clock was set forward, or the ledger could not be written"
UNSCHEDULED = 0.0
"""The next slot of a schedule that is in the configuration no longer; should it come back, it begins anew."""
FINAL_WRITES_TIMEOUT_S = 5.0
"""How long ticks may take to write their last row once their turns are over."""
RETRY_AFTER_MS = 1000
Ready = trio.TaskStatus[None]

log = structlog.get_logger("walrusd.schedule")


class Scheduler:
    """`keep_time` in the daemon's nursery, once the runtime has recovered. `see` is shown the facts of its ledger."""

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

    async def run_scheduler(self, jobs: Iterable[Job], *, task_status: Ready = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is stopped and the last tick is over."""
        try:
            async with trio.open_nursery() as self._nursery:
                left_open = await self._store.running_ticks()
                used_again = {row.session for row in await self._store.schedules() if row.session}
                await self.configure(jobs)
                end = self._ledger.close_interrupted_ticks
                self._nursery.start_soon(end, left_open, self._states.get, used_again)
                task_status.started()
                with self._run_scope:
                    await self._run_loop()
        finally:
            self._finished.set()

    def stop(self) -> None:
        """Begin no turn any more; those that are under way are the runtime's to end or to suspend."""
        self._stopping = True
        self._run_scope.cancel()
        for firing in self._tick_runs:
            firing.cancel()

    async def wait_finished(self) -> None:
        """Wait, not for long, until every tick whose turn is over has its row; then leave the others as they are."""
        with trio.move_on_after(FINAL_WRITES_TIMEOUT_S):
            await self._finished.wait()
        self._nursery.cancel_scope.cancel()

    async def configure(self, jobs: Iterable[Job]) -> None:
        """From now on these are the schedules. What is known of those that stay, stays; running ticks end as they
        began. Raises StorageFailed where the store cannot be read; one that cannot write is waited out.
        """
        # One that was taken out, and has a tick under way still, goes on where it is put back.
        before = {one.state.row.name: one.state for one in self._tick_runs if not one.finished.is_set()} | self._states
        rows = {row.name: row for row in await self._store.schedules()}
        after = dict[str, ScheduleState]()
        for job in jobs:
            after[job.name] = await self._prepare_state(job, before.get(job.name), rows.get(job.name))
        self._states = after
        self._sleep_scope.cancel()
        for name, row in rows.items():
            if name in after:
                continue
            if gone := before.get(name):
                await self._set_next_slot(gone, UNSCHEDULED)
            elif row.next_slot != UNSCHEDULED:
                await self._ledger.save_unconfigured(replace(row, next_slot=UNSCHEDULED))

    async def _prepare_state(self, job: Job, state: ScheduleState | None, row: ScheduleRow | None) -> ScheduleState:
        if state is None:
            last = await self._store.ticks(job.name, limit=1)
            state = ScheduleState(
                job, row or ScheduleRow(name=job.name, next_slot=UNSCHEDULED), last[0] if last else None
            )
        await state.wait_idle()
        now = self._clock.now()
        if state.row.next_slot == UNSCHEDULED:
            await self._set_next_slot(state, job.first_slot(now))
        elif state.job.every_s != job.every_s:
            moved = recompute_next_slot(state.row.next_slot, state.job.every_s, job.every_s, now)
            await self._set_next_slot(state, moved)
        state.job = job
        return state

    async def _set_next_slot(self, state: ScheduleState, next_slot: float) -> None:
        """Where this cannot be written now, it will be with the next that is."""
        try:
            await self._ledger.write(state, with_next_slot(next_slot))
        except StorageFailed as failure:
            self._ledger.report_failure(failure, state.row.name)
            state.row = replace(state.row, next_slot=next_slot)

    async def _run_loop(self) -> None:
        while True:
            self._sleep_scope = trio.CancelScope()
            nexts = [await self._process_or_retry_later(standing) for standing in self._states.values()]
            when = min(nexts, default=math.inf)
            with self._sleep_scope:
                await self._wait_until(when)

    async def _wait_until(self, when: float) -> None:
        """Or not so long."""
        if when == math.inf:
            await trio.sleep_forever()
        try:
            await self._clock.wait_until(when)
        except OSError as error:  # no descriptor is free for it
            log.warning("the clock cannot be waited for", error=str(error))
            await trio.sleep(min(max(when - self._clock.now(), 0.0), STORE_RETRY_S))

    async def _process_or_retry_later(self, state: ScheduleState) -> float:
        """When to look at it again."""
        try:
            return await self._process_due(state)
        except StorageFailed as failure:
            self._ledger.report_failure(failure, state.row.name)
            return self._clock.now() + STORE_RETRY_S  # and then it is late, or missed, and the ledger will say so

    async def _process_due(self, state: ScheduleState) -> float:
        """Do what is due; when to look at it again. Raises StorageFailed, with what is left of it not done."""
        while await state.wait_idle() and self._states.get(state.row.name) is state:
            match state.job.next_decision(state.row, self._clock.now(), running=state.running):
                case WaitUntil(until):
                    return until
                case Reschedule(next_slot):
                    await self._ledger.write(state, with_next_slot(next_slot))
                case RunSlot(slot, next_slot):
                    firing = self._new_tick_run(state, slot, by="clock")
                    await firing.claim(next_slot)
                    self._nursery.start_soon(firing.run, name=f"tick {firing.tick.tick}")
                case SkipSlot(slot, reason, next_slot):
                    tick = replace(self._ledger.new_tick(state, slot), outcome="skipped", reason=reason)
                    await self._ledger.write(state, with_next_slot(next_slot), tick)
                case RecordMissed(slot, count, next_slot):
                    row = self._ledger.new_tick(state, slot)
                    tick = replace(row, outcome="missed", reason=MISSED_REASON, count=count)
                    await self._ledger.write(state, with_next_slot(next_slot), tick)
        return math.inf

    def states(self) -> tuple[ScheduleState, ...]:
        """Every schedule as it stands."""
        return tuple(self._states.values())

    def breaker_open_until(self, state: ScheduleState) -> float | None:
        """Until when its breaker is open; None where it is not."""
        return state.row.closed_until if breaker.is_open(state.row, self._clock.now()) else None

    def warnings(self) -> tuple[str, ...]:
        """What keeps ticks from being begun at the moment of asking, a line each."""
        found = []
        if failure := self._ledger.failure:
            found.append(f"The ledger cannot be written, so no heartbeat ticks: {failure}. Is the disk full?")
        for standing in self.states():
            name = standing.row.name
            if standing.row.paused:
                found.append(f"{name} is paused: `walrusctl schedule resume {name}` lets it tick.")
            elif until := self.breaker_open_until(standing):
                at = time.strftime("%a %H:%M", time.localtime(until))
                found.append(
                    f"{name} has failed, and is skipped until {at}: `walrusctl schedule resume {name}` tries it sooner."
                )
        return tuple(found)

    async def pause(self, name: str) -> ScheduleState:
        """Skip every slot until it is resumed; each has its row. Raises Problem schedule_not_found, StorageFailed."""
        standing = self._find(name)
        await self._ledger.write(standing, lambda row: replace(row, paused=True))
        return standing

    async def resume(self, name: str) -> ScheduleState:
        """Skip no more slots, neither by hand nor by the breaker. Raises Problem schedule_not_found, StorageFailed."""
        standing = self._find(name)
        await self._ledger.write(standing, lambda row: replace(breaker.reset(row), paused=False))
        return standing

    async def tick_now(self, name: str) -> Tick:
        """Tick out of turn, and wait for the end. Who does not wait for it does not end it.

        Raises Problem (schedule_not_found, session_busy, shutting_down, storage_full, storage_failed).
        """
        standing = self._find(name)
        if self._stopping:
            raise stopping_problem()
        if standing.running:
            raise Problem(
                "session_busy",
                f"{name} has a tick under way",
                "Wait for its end: `walrusctl schedule history` shows it.",
                retry_after_ms=RETRY_AFTER_MS,
            )
        firing = self._new_tick_run(standing, self._clock.now(), by="hand")
        self._nursery.start_soon(self._run_manually, firing, name=f"tick {firing.tick.tick}")
        await firing.finished.wait()
        return firing.result()

    async def history(
        self, name: str | None, *, before: int | None = None, news: bool = False, limit: int = 50
    ) -> list[Tick]:
        """Rows of the ledger, newest first, of schedules that are no more too. Raises Problem schedule_not_found."""
        found = await self._store.ticks(name, before=before, news=news, limit=limit)
        if name is not None and not found and not await self._store.ticks(name, limit=1):
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
        firing = TickRun(state, self._ledger, self._clock.now, slot=slot, by=by)
        self._tick_runs = {one for one in self._tick_runs if not one.finished.is_set()} | {firing}
        return firing

    def _find(self, name: str) -> ScheduleState:
        """Raises Problem schedule_not_found."""
        if standing := self._states.get(name):
            return standing
        named_after = [known for known in self._states if known.endswith(f":{name}")]
        near = named_after or difflib.get_close_matches(name, self._states, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`walrusctl schedule list` shows those there are."
        raise Problem("schedule_not_found", f"nothing is done by the clock under the name {name!r}", hint)
