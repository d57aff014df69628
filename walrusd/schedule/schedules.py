"""What is done by the clock: one task that sleeps until the next slot of all, and the ticks beside it."""

import difflib
import math
import time
from collections.abc import Iterable

import structlog
import trio
from msgspec.structs import replace

from walrus_protocol.content import TickedBy
from walrus_protocol.events import Tick
from walrus_protocol.problems import Problem
from walrusd.ports import WallClock
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.runtime import Runtime
from walrusd.schedule import breaker
from walrusd.schedule.firing import Firing, stopping
from walrusd.schedule.job import RETRY_S, Job
from walrusd.schedule.ledger import Ledger, See, Standing, going_on_at
from walrusd.schedule.slots import Missed, Move, Run, Skip, Wait, at_new_interval
from walrusd.store.log import Schedule, StorageFailed

NOBODY_THERE = "walrusd or the machine was off, the clock was set forward, or the ledger could not be written"
RETIRED = 0.0
"""The next slot of a schedule that is in the configuration no longer; should it come back, it begins anew."""
LAST_ROWS_S = 5.0
"""How long ticks may take to write their last row once their turns are over."""
RETRY_AFTER_MS = 1000
Ready = trio.TaskStatus[None]

log = structlog.get_logger("walrusd.schedule")


class Schedules:
    """`keep_time` in the daemon's nursery, once the runtime has recovered. `see` is shown the facts of its ledger."""

    def __init__(self, runtime: Runtime, facts: DaemonFacts, clock: WallClock, see: See = lambda _, __: None) -> None:
        self._store = runtime.log
        self._clock = clock
        self._ledger = Ledger(runtime, facts, clock, see)
        self._standing: dict[str, Standing] = {}
        self._firing: set[Firing] = set()
        self._stopping = False
        self._keeping = trio.CancelScope()
        self._nap = trio.CancelScope()
        self._over = trio.Event()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._standing)

    async def keep_time(self, jobs: Iterable[Job], *, task_status: Ready = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is stopped and the last tick is over."""
        try:
            async with trio.open_nursery() as self._nursery:
                left_open = await self._store.running_ticks()
                used_again = {row.session for row in await self._store.schedules() if row.session}
                await self.configure(jobs)
                end = self._ledger.end_what_was_cut_off
                self._nursery.start_soon(end, left_open, self._standing.get, used_again)
                task_status.started()
                with self._keeping:
                    await self._sleep_and_see()
        finally:
            self._over.set()

    def stop(self) -> None:
        """Begin no turn any more; those that are under way are the runtime's to end or to suspend."""
        self._stopping = True
        self._keeping.cancel()
        for firing in self._firing:
            firing.stop()

    async def ended(self) -> None:
        """Wait, not for long, until every tick whose turn is over has its row; then leave the others as they are."""
        with trio.move_on_after(LAST_ROWS_S):
            await self._over.wait()
        self._nursery.cancel_scope.cancel()

    async def configure(self, jobs: Iterable[Job]) -> None:
        """From now on these are the schedules. What is known of those that stay, stays; running ticks end as they
        began. Raises StorageFailed where the store cannot be read; one that cannot write is waited out.
        """
        # One that was taken out, and has a tick under way still, goes on where it is put back.
        before = {one.standing.row.name: one.standing for one in self._firing if not one.over.is_set()} | self._standing
        rows = {row.name: row for row in await self._store.schedules()}
        after = dict[str, Standing]()
        for job in jobs:
            after[job.name] = await self._stands(job, before.get(job.name), rows.get(job.name))
        self._standing = after
        self._nap.cancel()
        for name, row in rows.items():
            if name in after:
                continue
            if gone := before.get(name):
                await self._place(gone, RETIRED)
            elif row.next_slot != RETIRED:
                await self._ledger.save(replace(row, next_slot=RETIRED))

    async def _stands(self, job: Job, standing: Standing | None, row: Schedule | None) -> Standing:
        if standing is None:
            last = await self._store.ticks(job.name, limit=1)
            standing = Standing(job, row or Schedule(name=job.name, next_slot=RETIRED), last[0] if last else None)
        await standing.still()
        now = self._clock.now()
        if standing.row.next_slot == RETIRED:
            await self._place(standing, job.first_slot(now))
        elif standing.job.every_s != job.every_s:
            moved = at_new_interval(standing.row.next_slot, standing.job.every_s, job.every_s, now)
            await self._place(standing, moved)
        standing.job = job
        return standing

    async def _place(self, standing: Standing, next_slot: float) -> None:
        """Where this cannot be written now, it will be with the next that is."""
        try:
            await self._ledger.write(standing, going_on_at(next_slot))
        except StorageFailed as failure:
            self._ledger.complain(failure, standing.row.name)
            standing.row = replace(standing.row, next_slot=next_slot)

    async def _sleep_and_see(self) -> None:
        while True:
            self._nap = trio.CancelScope()
            nexts = [await self._see_to_in_time(standing) for standing in self._standing.values()]
            when = min(nexts, default=math.inf)
            with self._nap:
                await self._wait_until(when)

    async def _wait_until(self, when: float) -> None:
        """Or not so long."""
        if when == math.inf:
            await trio.sleep_forever()
        try:
            await self._clock.until(when)
        except OSError as error:  # no descriptor is free for it
            log.warning("the clock cannot be waited for", error=str(error))
            await trio.sleep(min(max(when - self._clock.now(), 0.0), RETRY_S))

    async def _see_to_in_time(self, standing: Standing) -> float:
        """When to look at it again."""
        try:
            return await self._see_to(standing)
        except StorageFailed as failure:
            self._ledger.complain(failure, standing.row.name)
            return self._clock.now() + RETRY_S  # and then it is late, or missed, and the ledger will say so

    async def _see_to(self, standing: Standing) -> float:
        """Do what is due; when to look at it again. Raises StorageFailed, with what is left of it not done."""
        while await standing.still() and self._standing.get(standing.row.name) is standing:
            match standing.job.look(standing.row, self._clock.now(), running=standing.running):
                case Wait(until):
                    return until
                case Move(next_slot):
                    await self._ledger.write(standing, going_on_at(next_slot))
                case Run(slot, next_slot):
                    firing = self._firing_of(standing, slot, by="clock")
                    await firing.claim(next_slot)
                    self._nursery.start_soon(firing.fire, name=f"tick {firing.tick.tick}")
                case Skip(slot, reason, next_slot):
                    tick = replace(self._ledger.row(standing, slot), outcome="skipped", reason=reason)
                    await self._ledger.write(standing, going_on_at(next_slot), tick)
                case Missed(slot, count, next_slot):
                    row = self._ledger.row(standing, slot)
                    tick = replace(row, outcome="missed", reason=NOBODY_THERE, count=count)
                    await self._ledger.write(standing, going_on_at(next_slot), tick)
        return math.inf

    def standing(self) -> tuple[Standing, ...]:
        """Every schedule as it stands."""
        return tuple(self._standing.values())

    def open_until(self, standing: Standing) -> float | None:
        """Until when its breaker is open; None where it is not."""
        return standing.row.closed_until if breaker.is_open(standing.row, self._clock.now()) else None

    def warnings(self) -> tuple[str, ...]:
        """What keeps ticks from being begun at the moment of asking, a line each."""
        found = []
        if failure := self._ledger.failure:
            found.append(f"The ledger cannot be written, so no heartbeat ticks: {failure}. Is the disk full?")
        for standing in self.standing():
            name = standing.row.name
            if standing.row.paused:
                found.append(f"{name} is paused: `walrusctl schedule resume {name}` lets it tick.")
            elif until := self.open_until(standing):
                at = time.strftime("%a %H:%M", time.localtime(until))
                found.append(
                    f"{name} has failed, and is skipped until {at}: `walrusctl schedule resume {name}` tries it sooner."
                )
        return tuple(found)

    async def pause(self, name: str) -> Standing:
        """Skip every slot until it is resumed; each has its row. Raises Problem schedule_not_found, StorageFailed."""
        standing = self._find(name)
        await self._ledger.write(standing, lambda row: replace(row, paused=True))
        return standing

    async def resume(self, name: str) -> Standing:
        """Skip no more slots, neither by hand nor by the breaker. Raises Problem schedule_not_found, StorageFailed."""
        standing = self._find(name)
        await self._ledger.write(standing, lambda row: replace(breaker.closed(row), paused=False))
        return standing

    async def tick_now(self, name: str) -> Tick:
        """Tick out of turn, and wait for the end. Who does not wait for it does not end it.

        Raises Problem (schedule_not_found, session_busy, shutting_down, storage_full, storage_failed).
        """
        standing = self._find(name)
        if self._stopping:
            raise stopping()
        if standing.running:
            raise Problem(
                "session_busy",
                f"{name} has a tick under way",
                "Wait for its end: `walrusctl schedule history` shows it.",
                retry_after_ms=RETRY_AFTER_MS,
            )
        firing = self._firing_of(standing, self._clock.now(), by="hand")
        self._nursery.start_soon(self._by_hand, firing, name=f"tick {firing.tick.tick}")
        await firing.over.wait()
        return firing.result()

    async def history(
        self, name: str | None, *, before: int | None = None, news: bool = False, limit: int = 50
    ) -> list[Tick]:
        """Rows of the ledger, newest first, of schedules that are no more too. Raises Problem schedule_not_found."""
        found = await self._store.ticks(name, before=before, news=news, limit=limit)
        if name is not None and not found and not await self._store.ticks(name, limit=1):
            self._find(name)
        return found

    async def _by_hand(self, firing: Firing) -> None:
        try:
            await firing.claim()
        except StorageFailed as failure:
            firing.refused = failure
        else:
            await firing.fire()

    def _firing_of(self, standing: Standing, slot: float, *, by: TickedBy) -> Firing:
        firing = Firing(standing, self._ledger, self._clock.now, slot=slot, by=by)
        self._firing = {one for one in self._firing if not one.over.is_set()} | {firing}
        return firing

    def _find(self, name: str) -> Standing:
        """Raises Problem schedule_not_found."""
        if standing := self._standing.get(name):
            return standing
        named_after = [known for known in self._standing if known.endswith(f":{name}")]
        near = named_after or difflib.get_close_matches(name, self._standing, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`walrusctl schedule list` shows those there are."
        raise Problem("schedule_not_found", f"nothing is done by the clock under the name {name!r}", hint)
