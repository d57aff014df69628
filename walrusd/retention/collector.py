"""Enforces the retention limits: deletes old sessions, and more if the database is too large.

docs/space.md describes the rules for users. A run takes place at the start, every hour, after many bytes were written,
and on request. A run with nothing to delete costs a few index queries.
"""

from collections.abc import Callable, Iterator
from math import inf

import structlog
import trio

from walrus_config.schema import StorageSettings
from walrus_protocol.content import ExpiryReason
from walrus_protocol.events import SessionsExpired
from walrus_protocol.methods.daemon import GcResult
from walrusd.ports import Clock
from walrusd.retention.clock_jump import DAY_S, ClockJumpGuard
from walrusd.retention.deletion_run import DeletionRun, DryRun, delete_planned
from walrusd.retention.planner import DeletionStats
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.store.contract import Log
from walrusd.store.errors import StorageFailed
from walrusd.store.retention_contract import SpaceUsage

log = structlog.get_logger("walrusd")

HOUR_S = 3600.0
"""Seconds of an hour: the interval of full runs."""
WAL_WARNING_BYTES = 64 * 1024 * 1024
"""Bytes of the write-ahead log above which there is a warning.

walrusd's own readers never make it so long.
"""


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
            before, storage = await self._store.space_usage(), self._storage_settings()
            excess_bytes = 0 if storage.max_db_bytes is None else before.used_bytes - storage.max_db_bytes
            plan = DryRun(excess_bytes)
            await delete_planned(plan, self._store, self._expiry_time(storage))
            return _gc_result(plan.stats, plan.stats.bytes, before, dry_run=True)
        async with self._lock:
            before = await self._store.space_usage()
            stats = await self._enforce_limits("gc", full_sweep=True)
            after = await self._store.space_usage()
        return _gc_result(stats, max(0, before.used_bytes - after.used_bytes), after, dry_run=False)

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
        storage = self._storage_settings()
        run = DeletionRun(
            store=self._store,
            sessions=self._sessions,
            daemon_recorder=self._daemon_recorder,
            clock=self._clock,
            on_event=self._on_event,
            reason=reason,
            max_bytes=storage.max_db_bytes,
        )
        if full_sweep:
            await run.sweep()
        suspect = self._clock_guard.is_suspect()
        await delete_planned(run, self._store, None if suspect and reason != "gc" else self._expiry_time(storage))
        self._full_warning = _full_warning(storage.max_db_bytes, await run.excess_bytes())
        return run.stats

    def _expiry_time(self, storage: StorageSettings) -> float | None:
        """Returns the time before which a session must have been closed to be deleted for its age."""
        return None if storage.retain_closed_days is None else self._clock() - storage.retain_closed_days * DAY_S


def _gc_result(stats: DeletionStats, freed_bytes: int, usage: SpaceUsage, *, dry_run: bool) -> GcResult:
    return GcResult(
        dry_run=dry_run,
        sessions=stats.sessions,
        outputs=stats.outputs,
        events=stats.events,
        bytes=freed_bytes,
        db_bytes=usage.used_bytes + usage.free_bytes,
    )


def _full_warning(max_bytes: int | None, excess_bytes: int) -> str:
    if max_bytes is None or excess_bytes <= 0:
        return ""
    return (
        f"The database takes {(max_bytes + excess_bytes) / 1e6:.1f} MB, more than storage.max_db_bytes allows "
        f"({max_bytes / 1e6:.1f} MB). The rest belongs to sessions that are open or in use. "
        "Close some of them, or raise the limit."
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
