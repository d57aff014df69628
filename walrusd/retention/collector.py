"""Enforces the retention limits: deletes old sessions, and more if the database is too large.

docs/space.md describes the rules for users. A run takes place at the start, every hour, after many bytes were written,
and on request. A run with nothing to delete costs a few index queries.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf

import structlog
import trio

from walrus_config.schema import StorageSettings
from walrus_protocol.content import ExpiryReason
from walrus_protocol.events import SessionsExpired
from walrus_protocol.methods.daemon import GcResult
from walrusd.ports import Clock
from walrusd.retention.clock_jump import DAY_S, ClockJumpGuard
from walrusd.retention.dry_run import DeletionCandidates, DeletionStats, simulate_retention
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.store.contract import Log, StorageFailed
from walrusd.store.retention_contract import CURSOR_START, ClosedSession, OutputRef, SpaceUsage

log = structlog.get_logger("walrusd")

HOUR_S = 3600.0
"""Seconds of an hour: the interval of full runs."""
BATCH_SIZE = 64
"""Maximum sessions, or outputs, deleted in one transaction."""
MAX_BATCH_TURNS = 1000
"""Maximum turns of the sessions in one transaction, but at least one session.

As many turn and key rows are deleted with them, which takes some milliseconds.
"""
WAL_WARNING_BYTES = 64 * 1024 * 1024
"""Bytes of the write-ahead log above which there is a warning.

walrusd's own readers never make it so long.
"""
NO_LIMIT = 2**53
"""No limit, for byte counts, row counts and times: more than there can be."""


class RetentionCollector:
    """Deletes what the retention settings permit. Runs one at a time."""

    def __init__(
        self,
        store: Log,
        sessions: SessionCache,
        daemon_recorder: DaemonRecorder,
        *,
        storage_settings: Callable[[], StorageSettings],
        clock: Clock,
        on_event: Callable[[SessionsExpired], None],
        last_run_at: float | None = None,
    ) -> None:
        """`storage_settings` returns the current settings. `on_event` gets each event and must not raise.

        `last_run_at` is the unix time when walrusd last ran, or None if it is unknown.
        """
        self._store = store
        self._sessions = sessions
        self._daemon_recorder = daemon_recorder
        self._storage_settings = storage_settings
        self._clock = clock
        self._on_event = on_event
        self._clock_guard = ClockJumpGuard(clock, last_run_at)
        self._lock = trio.Lock()
        self._sleep_scope = trio.CancelScope()
        self._requested = False
        self._full_warning = ""
        self._wal_warned = False

    async def run(self) -> None:
        """Runs whenever there is a reason to, until cancelled."""
        full_sweep_at = trio.current_time()
        while True:
            full_sweep = self._requested or trio.current_time() >= full_sweep_at
            if full_sweep:
                full_sweep_at = trio.current_time() + HOUR_S
            self._requested = False
            await self._run_once(full_sweep=full_sweep)
            with trio.CancelScope(deadline=-inf if self._requested else full_sweep_at) as self._sleep_scope:
                await self._store.wait_growth()

    def request(self) -> None:
        """Makes `run` start a run now: the settings may have changed."""
        self._requested = True
        self._sleep_scope.cancel()

    async def collect(self, *, dry_run: bool) -> GcResult:
        """Deletes now what the settings permit, or only reports it. Raises Problem storage_*."""
        if dry_run:
            before = await self._store.space_usage()
            return _gc_result(await self._simulate(before.used_bytes), before, dry_run=True)
        async with self._lock:
            before = await self._store.space_usage()
            stats = await self._enforce_limits("gc", full_sweep=True)
            after = await self._store.space_usage()
        stats.bytes = max(0, before.used_bytes - after.used_bytes)
        return _gc_result(stats, after, dry_run=False)

    def warnings(self) -> Iterator[str]:
        """Yields the current warnings about disk space and retention, for `status` and `doctor`."""
        if self._full_warning:
            yield self._full_warning
        if self._clock_guard.remaining_s and self._storage_settings().retain_closed_days is not None:
            yield _clock_jump_warning(self._clock_guard.remaining_s)
        if (wal_bytes := self._store.file_sizes().wal_bytes) > WAL_WARNING_BYTES:
            yield _wal_warning(wal_bytes)

    async def _run_once(self, *, full_sweep: bool) -> None:
        try:
            async with self._lock:
                stats = await self._enforce_limits(None, full_sweep=full_sweep)
        except StorageFailed as failure:
            log.warning("retention_failed", error=str(failure), hint=failure.hint)
        except Exception:
            log.exception("retention_failed")  # a bug in retention must not end the daemon
        else:
            if stats != DeletionStats():
                log.info("retention_deleted", sessions=stats.sessions, outputs=stats.outputs, events=stats.events)
        self._log_wal_warning()

    def _log_wal_warning(self) -> None:
        """Logs the warning once each time that the write-ahead log has become too long."""
        wal_bytes = self._store.file_sizes().wal_bytes
        if wal_bytes > WAL_WARNING_BYTES and not self._wal_warned:
            log.warning("write_ahead_log_too_long", wal_bytes=wal_bytes, hint=_wal_warning(wal_bytes))
        self._wal_warned = wal_bytes > WAL_WARNING_BYTES

    async def _enforce_limits(self, reason: ExpiryReason | None, *, full_sweep: bool) -> DeletionStats:
        """Deletes what exceeds the limits and returns what was deleted.

        With `full_sweep` it sweeps first, which also removes what a crash has left.
        """
        stats, storage = DeletionStats(), self._storage_settings()
        if full_sweep:
            await self._sweep(stats)
        suspect = self._clock_guard.is_suspect()
        if storage.retain_closed_days is not None and (reason == "gc" or not suspect):
            await self._expire_closed_before(
                self._clock() - storage.retain_closed_days * DAY_S, reason or "retention", stats
            )
        self._full_warning = ""
        while storage.max_db_bytes is not None and (excess := await self._excess_bytes(storage.max_db_bytes)) > 0:
            if not await self._free_space(excess, reason or "space", stats):
                self._set_full_warning(storage.max_db_bytes, excess)
                break
            await self._sweep(stats)
        return stats

    async def _expire_closed_before(self, closed_before: float, reason: ExpiryReason, stats: DeletionStats) -> None:
        """Deletes the sessions that were closed before that time, except those in use."""
        after = CURSOR_START
        while found := _take_batch(
            await self._store.closed_sessions(closed_before, after=after, target_bytes=NO_LIMIT, limit=BATCH_SIZE)
        ):
            after = found[-1].cursor
            if await self._expire_sessions([one.session for one in found], reason, stats):
                await self._sweep(stats)

    async def _free_space(self, excess_bytes: int, reason: ExpiryReason, stats: DeletionStats) -> bool:
        """Deletes the next batch in the order of docs/space.md; returns False if nothing can be deleted."""
        if outputs := await self._store.output_refs("closed", target_bytes=excess_bytes, limit=BATCH_SIZE):
            await self._release_outputs(outputs)
            return True
        after, in_use = CURSOR_START, False
        while found := _take_batch(
            await self._store.closed_sessions(NO_LIMIT, after=after, target_bytes=excess_bytes, limit=BATCH_SIZE)
        ):
            after = found[-1].cursor
            candidates = [one.session for one in found if one.bytes]
            if await self._expire_sessions(candidates, reason, stats):
                return True
            in_use = in_use or bool(candidates)
        if in_use:
            return False
        if outputs := await self._store.output_refs("all", target_bytes=excess_bytes, limit=BATCH_SIZE):
            await self._release_outputs(outputs)
        return bool(outputs)

    async def _expire_sessions(self, sessions: Iterable[int], reason: ExpiryReason, stats: DeletionStats) -> bool:
        """Deletes those of the sessions that are not in use; returns False if there was none."""
        with self._sessions.deletion_guard.try_delete(sessions, self._sessions.evict_if_unused) as unused:
            if unused:
                event = SessionsExpired(ts=self._clock(), sessions=tuple(unused), reason=reason)
                await self._daemon_recorder.record(event, expired_sessions=unused)
                self._on_event(event)
        stats.sessions += len(unused)
        return bool(unused)

    async def _release_outputs(self, outputs: list[OutputRef]) -> None:
        await self._daemon_recorder.record(released_outputs=[(output.session, output.ref) for output in outputs])

    async def _sweep(self, stats: DeletionStats) -> None:
        if unlisted := await self._store.unlisted_sessions():
            await self._daemon_recorder.record(SessionsExpired(ts=self._clock(), sessions=tuple(unlisted), reason="gc"))
        swept = await self._store.sweep()
        stats.events += swept.events
        stats.outputs += swept.outputs

    async def _excess_bytes(self, max_bytes: int) -> int:
        return (await self._store.space_usage()).used_bytes - max_bytes

    def _set_full_warning(self, max_bytes: int, excess_bytes: int) -> None:
        self._full_warning = (
            f"The database takes {(max_bytes + excess_bytes) / 1e6:.1f} MB, more than storage.max_db_bytes allows "
            f"({max_bytes / 1e6:.1f} MB). The rest belongs to sessions that are open or in use. "
            "Close some of them, or raise the limit."
        )

    async def _simulate(self, used_bytes: int) -> DeletionStats:
        """Returns what `_enforce_limits` would delete, without regard to which sessions are in use."""
        storage = self._storage_settings()
        days, max_bytes = storage.retain_closed_days, storage.max_db_bytes
        closed_before = None if days is None else self._clock() - days * DAY_S
        excess = 0 if max_bytes is None else used_bytes - max_bytes
        if closed_before is None and excess <= 0:
            return DeletionStats()
        candidates = DeletionCandidates(
            closed_sessions=await self._store.closed_sessions(NO_LIMIT, target_bytes=NO_LIMIT, limit=NO_LIMIT),
            closed_only_outputs=await self._store.output_refs("closed", target_bytes=NO_LIMIT, limit=NO_LIMIT),
            outputs=await self._store.output_refs("all", target_bytes=NO_LIMIT, limit=NO_LIMIT),
        )
        return await trio.to_thread.run_sync(
            partial(simulate_retention, candidates, closed_before=closed_before, excess_bytes=excess)
        )


def _take_batch(closed_sessions: Iterable[ClosedSession]) -> list[ClosedSession]:
    """Returns the first sessions, at least one, with at most MAX_BATCH_TURNS turns in total."""
    batch: list[ClosedSession] = []
    turns = 0
    for one in closed_sessions:
        turns += one.turns
        if batch and turns > MAX_BATCH_TURNS:
            break
        batch.append(one)
    return batch


def _gc_result(stats: DeletionStats, usage: SpaceUsage, *, dry_run: bool) -> GcResult:
    return GcResult(
        dry_run=dry_run,
        sessions=stats.sessions,
        outputs=stats.outputs,
        events=stats.events,
        bytes=stats.bytes,
        db_bytes=usage.used_bytes + usage.free_bytes,
    )


def _clock_jump_warning(remaining_s: float) -> str:
    return (
        "The clock jumped forward, or walrusd was not running for a long time. Sessions past "
        f"storage.retain_closed_days are kept for {remaining_s / 3600:.1f} hours more. "
        "If the clock is wrong, correct it."
    )


def _wal_warning(wal_bytes: int) -> str:
    return (
        f"The write-ahead log takes {wal_bytes / 1e6:.0f} MB: another program keeps reading walrus.db, perhaps a "
        "backup or a shell. `fuser -v` on the file shows it. When the program ends, the log becomes short again."
    )
