"""One tick, from its claim to its end: the row before, the work, the row after."""

from collections.abc import Callable

import structlog
import trio
from msgspec.structs import replace

from walrus_protocol.content import TickedBy
from walrus_protocol.events import Ran, Tick
from walrus_protocol.problems import Problem
from walrusd.schedule import breaker
from walrusd.schedule.job import STOPPING, Ended
from walrusd.schedule.ledger import Ledger, Standing
from walrusd.store.log import Schedule, StorageFailed

log = structlog.get_logger("walrusd.schedule")


def stopping() -> Problem:
    return Problem("shutting_down", STOPPING, "Its ledger says what became of the tick when it is back.")


class Firing:
    """`claim`, then `fire` in a task of its own. It takes the schedule for itself until it is over."""

    def __init__(
        self, standing: Standing, ledger: Ledger, now: Callable[[], float], *, slot: float, by: TickedBy
    ) -> None:
        self.standing = standing
        self._ledger = ledger
        self._now = now
        self._scope = trio.CancelScope()
        self._begun = False
        self.tick = replace(ledger.row(standing, slot), by=by, started_at=now())
        self.over = trio.Event()
        self.refused: StorageFailed | None = None
        """Why it could not be claimed, where nobody could be told at once."""
        standing.running = True

    async def claim(self, next_slot: float | None = None) -> None:
        """Write down that the slot is taken, and which is the next. Raises StorageFailed, and gives it back."""

        def taken(row: Schedule) -> Schedule:
            return row if next_slot is None else replace(row, next_slot=next_slot)

        try:
            await self._ledger.write(self.standing, taken, self.tick)
        except BaseException:
            self._leave()
            raise

    async def fire(self) -> None:
        """See it through, and write down what became of it. Where walrusd stops before that, its row stays open."""
        try:
            ended = await self._ended()
            if ended:
                await self._write_down(ended)
            else:
                await self._ledger.note_the_stop(self.tick)
        finally:
            self._leave()

    def result(self) -> Tick:
        """What became of it, once it is over. Raises Problem where nothing has, or nobody knows."""
        if self.refused:
            raise Problem(self.refused.kind, str(self.refused), self.refused.hint)
        if self.tick.outcome == "running":
            raise stopping()
        return self.tick

    def stop(self) -> None:
        """Take no turn any more. One that has begun is the runtime's to end."""
        if not self._begun:
            self._scope.cancel()

    def _leave(self) -> None:
        self.standing.running = False
        self.over.set()

    async def _ended(self) -> Ended | None:
        job = self.standing.job
        with self._scope:
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
                return await job.fire(self.standing.row, self.tick, self._about_to_begin)
            except Exception:
                log.exception("tick crashed", schedule=job.name, tick=self.tick.tick)
                return Ended(outcome="failed", reason="internal: walrusd met a bug; its log has the details", news=True)
        return Ended(outcome="skipped", reason=STOPPING)

    async def _about_to_begin(self, ran: Ran, session: int | None) -> None:
        def goes_on(row: Schedule) -> Schedule:
            return row if session is None else replace(row, session=session)

        self.tick = replace(self.tick, ran=ran)
        try:
            await self._ledger.write(self.standing, goes_on, self.tick)
        except StorageFailed as failure:
            raise Problem(failure.kind, str(failure), failure.hint) from failure
        await trio.lowlevel.checkpoint_if_cancelled()
        self._begun = True

    async def _write_down(self, ended: Ended) -> None:
        now, every_s = self._now(), self.standing.job.every_s
        over = replace(
            self.tick,
            ts=now,
            ended_at=now,
            outcome=ended.outcome,
            reason=ended.reason,
            ran=ended.ran,
            text=ended.text,
            news=ended.news,
        )

        def after(row: Schedule) -> Schedule:
            if ended.outcome == "failed":
                return breaker.after_failure(row, every_s, now, at_once=ended.at_once)
            if ended.outcome == "ran":
                row = breaker.closed(row)
            return row if ended.seen is None else replace(row, seen=ended.seen)

        await self._ledger.write_in_the_end(self.standing, after, over)
        self.tick = over
