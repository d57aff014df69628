"""Runs one tick: writes its row, runs the job, and writes the row again with the result."""

from collections.abc import Callable
from functools import partial

import structlog
import trio
from msgspec.structs import replace

from walrus_protocol.content import TickTrigger
from walrus_protocol.events import Tick, TurnRef
from walrus_protocol.problems import Problem
from walrusd.schedule import breaker
from walrusd.schedule.job import STOPPING_REASON, TickResult
from walrusd.schedule.ledger import Ledger, ScheduleState
from walrusd.store.errors import StorageFailed
from walrusd.store.tables.schedule import ScheduleRow

log = structlog.get_logger("walrusd.schedule")


def stopping_problem() -> Problem:
    return Problem(
        "shutting_down",
        STOPPING_REASON,
        "Ask again after its restart: `walrusctl schedule history` shows the outcome of the tick.",
    )


class TickRun:
    """One tick: call `claim`, then `run` in a task of its own.

    The schedule counts as running until the tick is over.
    """

    def __init__(
        self, state: ScheduleState, ledger: Ledger, now: Callable[[], float], *, slot: float, by: TickTrigger
    ) -> None:
        self.state = state
        self._ledger = ledger
        self._now = now
        self._scope = trio.CancelScope()
        self._turn_started = False
        self.tick = replace(ledger.new_tick(state, slot), by=by, started_at=now())
        self.finished = trio.Event()
        self.claim_error: StorageFailed | None = None
        """The error of `claim` of a manual tick, which `result` raises."""
        state.running = True

    async def claim(self, next_slot: float | None = None) -> None:
        """Records that the slot is taken, and which is the next.

        Raises StorageFailed, with the schedule released again.
        """

        def advance(row: ScheduleRow) -> ScheduleRow:
            return row if next_slot is None else replace(row, next_slot=next_slot)

        try:
            await self._ledger.write(self.state, advance, self.tick)
        except BaseException:
            self._release()
            raise

    async def run(self) -> None:
        """Runs the job and records its result.

        If walrusd stops before that, the row stays open for the next start.
        """
        try:
            result = await self._run_job()
            if result:
                await self._record_result(result)
            else:
                await self._ledger.record_stop(self.tick)
        finally:
            self._release()

    def result(self) -> Tick:
        """Returns the finished tick. Raises Problem if it could not be claimed, or if a stop interrupted it."""
        if self.claim_error:
            raise self.claim_error.with_data()
        if self.tick.outcome == "running":
            raise stopping_problem()
        return self.tick

    def cancel(self) -> None:
        """Cancels the tick unless its turn has begun; the runtime ends such a turn."""
        if not self._turn_started:
            self._scope.cancel()

    def _release(self) -> None:
        self.state.running = False
        self.finished.set()

    async def _run_job(self) -> TickResult | None:
        job = self.state.job
        with self._scope:
            try:
                await trio.lowlevel.checkpoint_if_cancelled()
                return await job.run(self.state.row, self.tick, self._record_turn_start)
            except Exception:
                log.exception("tick_crashed", schedule=job.name, tick=self.tick.tick)
                return TickResult(
                    outcome="failed", reason="internal: walrusd has a bug; its log has the details", news=True
                )
        return TickResult(outcome="skipped", reason=STOPPING_REASON)

    async def _record_turn_start(self, ran: TurnRef, session: int | None) -> None:
        def set_session(row: ScheduleRow) -> ScheduleRow:
            return row if session is None else replace(row, session=session)

        self.tick = replace(self.tick, ran=ran)
        await self._ledger.write(self.state, set_session, self.tick)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._turn_started = True

    async def _record_result(self, result: TickResult) -> None:
        now, retry_base_s = self._now(), self.state.job.retry_base_s
        over = replace(
            self.tick,
            ts=now,
            ended_at=now,
            outcome=result.outcome,
            reason=result.reason,
            ran=result.ran,
            text=result.text,
            news=result.news,
        )

        def apply_result(row: ScheduleRow) -> ScheduleRow:
            if result.outcome == "failed":
                return breaker.after_failure(row, retry_base_s, now, opens_breaker=result.opens_breaker)
            if result.outcome == "ran":
                row = breaker.reset(row)
            return row if result.probe_digest is None else replace(row, seen=result.probe_digest)

        write = partial(self._ledger.write, self.state, apply_result, over)
        await self._ledger.retry_until_written(over, write)
        self.tick = over
