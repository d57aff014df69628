"""One run of retention: reads candidates in pages, and deletes, or only counts, what the planner chooses of them."""

from collections.abc import Callable, Sequence
from itertools import starmap
from typing import Literal

from msgspec import Struct

from walrus_protocol.content import ExpiryReason
from walrus_protocol.events import SessionsExpired
from walrusd.ports import Clock
from walrusd.retention.planner import BATCH_SIZE, NO_LIMIT, Deletions, DeletionStats, DeletionStep, deletion_order, plan
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.store.contract import Log
from walrusd.store.expiry import ExpireSession
from walrusd.store.retention_contract import Candidate, Cursor
from walrusd.store.tables.output import ReleaseOutput


class DryRun(Struct):
    """Counts the planned deletions, without regard to which sessions are in use."""

    first_excess_bytes: int
    stats: DeletionStats = DeletionStats()
    in_use: Literal[False] = False

    async def excess_bytes(self) -> int:
        return self.first_excess_bytes - self.stats.bytes

    async def delete(self, deletions: Deletions) -> bool:
        self.stats += deletions.stats
        return False


class DeletionRun(Struct, kw_only=True):
    """Executes the planned deletions. `on_event` gets each event and must not raise."""

    store: Log
    sessions: SessionCache
    daemon_recorder: DaemonRecorder
    clock: Clock
    on_event: Callable[[SessionsExpired], None]
    reason: ExpiryReason | None
    """Recorded with each deletion; None means the reason of the plan."""
    max_bytes: int | None
    stats: DeletionStats = DeletionStats()
    in_use: bool = False
    """True if a session that was to be deleted is in use."""

    async def excess_bytes(self) -> int:
        """Returns the bytes that the database takes over its limit."""
        return 0 if self.max_bytes is None else (await self.store.space_usage()).used_bytes - self.max_bytes

    async def delete(self, deletions: Deletions) -> bool:
        """Deletes a batch, except the sessions that are in use. Returns False if it deleted nothing."""
        deleted = await self._expire_sessions(deletions.sessions, self.reason or deletions.reason)
        if deletions.outputs:
            await self.daemon_recorder.record(mutations=[*starmap(ReleaseOutput, deletions.outputs)])
        if not deleted and not deletions.outputs:
            return False
        await self.sweep()
        return True

    async def sweep(self) -> None:
        """Deletes data that can no longer be read."""
        if unlisted := await self.store.unlisted_sessions():
            await self.daemon_recorder.record(SessionsExpired(ts=self.clock(), sessions=tuple(unlisted), reason="gc"))
        swept = await self.store.sweep()
        self.stats += DeletionStats(events=swept.events, outputs=swept.outputs)

    async def _expire_sessions(self, sessions: Sequence[int], reason: ExpiryReason) -> int:
        """Deletes those of the sessions that are not in use, and returns their number."""
        with self.sessions.try_delete(sessions) as unused:
            if unused:
                event = SessionsExpired(ts=self.clock(), sessions=tuple(unused), reason=reason)
                await self.daemon_recorder.record(event, mutations=[*map(ExpireSession, unused)])
                self.on_event(event)
        self.stats += DeletionStats(sessions=len(unused))
        self.in_use = self.in_use or len(unused) < len(sessions)
        return len(unused)


async def delete_planned(run: DeletionRun | DryRun, store: Log, closed_before: float | None) -> None:
    """Deletes the sessions closed before that time, and then what exceeds the size limit.

    While a closed session is in use, no open session loses an output in its place.
    """
    for step in deletion_order(closed_before):
        if step.source == "outputs_of_open" and run.in_use:
            return
        after = step.start
        while (needed := NO_LIMIT if step.reason == "retention" else await run.excess_bytes()) > 0:
            candidates = await _read_candidates(store, step, after)
            if not candidates:
                break
            deletions = plan(step, candidates, needed)
            # A deleted fork may make an older session deletable: after a deletion, the search begins again.
            after = step.start if await run.delete(deletions) else deletions.upto


async def _read_candidates(store: Log, step: DeletionStep, after: Cursor) -> Sequence[Candidate]:
    match step.source:
        case "closed_sessions":
            return await store.closed_sessions(step.closed_before, after=after, limit=BATCH_SIZE)
        case "outputs_of_closed":
            return await store.output_refs("closed", after=after, limit=BATCH_SIZE)
        case "outputs_of_open":
            return await store.output_refs("open", after=after, limit=BATCH_SIZE)
