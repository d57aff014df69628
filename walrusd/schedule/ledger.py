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

from walrus_protocol.events import AnyEvent, Done, Ran, Tick, decode_row
from walrus_protocol.problems import Problem
from walrusd.ports import WallClock
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions import LiveSession
from walrusd.schedule import breaker
from walrusd.schedule.job import RETRY_S, Job, key_of
from walrusd.store.log import Schedule, StorageFailed

log = structlog.get_logger("walrusd.schedule")

CRASHED = "walrusd ended while it ran"
STOPPED = "walrusd was stopped while it ran"
"""Written into the row by the stop itself: a tick that says nothing of the kind may be what walrusd died of."""

See = Callable[[str, AnyEvent], None]
"""Shown every fact of an agent's ticks. Does not raise."""


class Standing:
    """A schedule as it stands: what is to be done, its row in the store, and its last tick."""

    def __init__(self, job: Job, row: Schedule, last: Tick | None) -> None:
        self.job = job
        self.row = row
        self.last = last
        self.running = False
        """A tick has been begun and has not ended."""
        self.door = trio.Lock()
        """One change at a time: each begins with what the one before it has left."""
        self.changed = trio.Event()
        """Set when the change under way is over; the next has another."""

    async def still(self) -> bool:
        """True, once no change is under way. Who then decides by `row`, and writes at once, decides by what is so."""
        while self.door.locked():
            await self.changed.wait()
        return True


def going_on_at(next_slot: float) -> Callable[[Schedule], Schedule]:
    return lambda row: replace(row, next_slot=next_slot)


class Ledger:
    """Writes for all schedules."""

    def __init__(self, runtime: Runtime, facts: DaemonFacts, clock: WallClock, see: See) -> None:
        self._runtime = runtime
        self._facts = facts
        self._clock = clock
        self._see = see
        self.failure: StorageFailed | None = None
        """Why it could not be written, or read, when that was tried last; None where it could."""

    def row(self, standing: Standing, slot: float) -> Tick:
        """A new one, not written yet."""
        job, now = standing.job, self._clock.now()
        number = self._facts.next_tick()
        return Tick(ts=now, tick=number, schedule=job.name, agent=job.agent, slot=slot, outcome="running")

    async def write(self, standing: Standing, change: Callable[[Schedule], Schedule], tick: Tick | None = None) -> None:
        """The schedule changed, and with it what became of a tick, in one transaction; a tick that is over is a fact.

        Raises StorageFailed, with nothing changed.
        """
        async with standing.door:
            try:
                row = change(standing.row)
                await self._record(tick, row)
                standing.row = row
                if tick and (standing.last is None or tick.tick >= standing.last.tick):
                    standing.last = tick
            finally:
                standing.changed.set()
                standing.changed = trio.Event()

    async def write_in_the_end(self, standing: Standing, change: Callable[[Schedule], Schedule], tick: Tick) -> None:
        """As `write`, and again and again where the store cannot."""
        await self._until_written(tick, partial(self.write, standing, change, tick))

    async def end_what_was_cut_off(
        self, running: list[Tick], standing: Callable[[str], Standing | None], used_again: Collection[int]
    ) -> None:
        """Close the rows that an earlier process left open, with what the log knows of their turns.

        `used_again`: the sessions in which heartbeats go on. Others were made for a tick, and end with it.
        """
        async with trio.open_nursery() as nursery:
            for tick in running:
                end = partial(self._end, tick, standing(tick.schedule), used_again)
                nursery.start_soon(self._until_written, tick, end, name=f"tick {tick.tick}")

    async def _until_written(self, tick: Tick, write: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await write()
            except StorageFailed as failure:
                self.complain(failure, tick.schedule)
                await trio.sleep(RETRY_S)
            else:
                return

    async def save(self, row: Schedule) -> None:
        """Write the state of a schedule that nothing stands for; where that cannot be done now, leave it."""
        try:
            await self._record(None, row)
        except StorageFailed as failure:
            self.complain(failure, row.name)

    def complain(self, failure: StorageFailed, schedule: str) -> None:
        self.failure = failure
        log.error("ledger not written", schedule=schedule, kind=failure.kind, error=str(failure), retry_s=RETRY_S)

    async def note_the_stop(self, tick: Tick) -> None:
        """For the next start: a tick that is cut off by a stop has failed in nothing."""
        try:
            await self._record(replace(tick, reason=STOPPED), None)
        except StorageFailed as failure:
            self.complain(failure, tick.schedule)

    async def _end(self, tick: Tick, standing: Standing | None, used_again: Collection[int]) -> None:
        made = tick.ran.session if tick.ran else await self._made_for(tick)
        if made and made not in used_again:
            # It is closed, or about to be, unless nobody has spoken in it, or the turn still waits.
            with suppress(Problem):
                await self._runtime.close_session(made, force=True, by="heartbeat")
        ran = tick.ran and await self._paid(tick.ran)
        now, reason = self._clock.now(), tick.reason or CRASHED
        over = replace(tick, outcome="interrupted", reason=reason, ran=ran, news=True, ts=now, ended_at=now)
        if standing and reason == CRASHED:
            failed = partial(breaker.after_failure, every_s=standing.job.every_s, now=now, at_once=False)
            await self.write(standing, failed, over)
        else:
            await self._record(over, None)
        if standing and standing.last and standing.last.tick == tick.tick:
            standing.last = over

    async def _made_for(self, tick: Tick) -> int | None:
        """The session of its own that it had made when it was cut off, before its row could name it."""
        made = await self._runtime.log.created_with(key_of(tick))
        return made[0] if made else None

    async def _paid(self, ran: Ran) -> Ran | None:
        """The turn with what it cost, once it has ended; None where there is none, and none to come."""
        try:
            live = await self._runtime.live(ran.session)
        except Problem:
            return ran  # its log cannot be read: what it cost is not known
        while _to_come(ran, live):
            await live.feed.change()
        log = self._runtime.log
        span = await log.span(ran.session, ran.turn)
        if span is None or span.last_seq is None:
            return None
        [row] = await log.events(ran.session, span.last_seq - 1, 1)
        done = decode_row(row.body)
        return replace(ran, cost_usd=done.cost_usd) if isinstance(done, Done) else ran

    async def _record(self, tick: Tick | None, row: Schedule | None) -> None:
        over = tick if tick and tick.outcome != "running" else None
        await self._facts.record(*([over] if over else []), ticks=[tick] if tick else [], schedule=row)
        self.failure = None
        if over:
            self._see(over.agent, over)
            _say(over)


def _to_come(ran: Ran, live: LiveSession) -> bool:
    """Whether the turn's end is: it is open, or waits in the inbox."""
    if (turn := live.session.turn) and turn.number <= ran.turn:
        return True
    return live.session.outline.turns < ran.turn and bool(live.inbox)


def _say(tick: Tick) -> None:
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
