"""What is kept, how long, and what goes first where there is not room for all: docs/space.md says it to people.

It looks at the start, every hour, when much was written, and when it is told to; a look that finds nothing to do is a
few questions to indexes.
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
from walrusd.runtime.errors import translate_storage_errors
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.store.contract import Log, StorageFailed
from walrusd.store.retention_contract import CURSOR_START, ClosedSession, OutputRef, SpaceUsage

log = structlog.get_logger("walrusd")

HOUR_S = 3600.0
BATCH_SIZE = 64
"""Sessions, or outputs, that go in one transaction."""
MAX_BATCH_TURNS = 1000
"""Of these sessions: so many rows of turns and of keys go with them, which takes some milliseconds. One goes always."""
WAL_WARNING_BYTES = 64 * 1024 * 1024
"""Of the write-ahead log. No reader of walrusd's own brings it there."""
NO_LIMIT = 2**53
"""Of bytes and rows, more than there are."""


class RetentionCollector:
    """Throws away what need not be kept. One look at a time."""

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
        """`storage` says what is in force. `see` is shown each fact, and does not raise. `last`: how late it was when
        walrusd last ran.
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
        """Look whenever there is a reason to, until cancelled."""
        whole_at = trio.current_time()
        while True:
            whole = self._requested or trio.current_time() >= whole_at
            if whole:
                whole_at = trio.current_time() + HOUR_S
            self._requested = False
            await self._run_once(full_sweep=whole)
            with trio.CancelScope(deadline=-inf if self._requested else whole_at) as self._sleep_scope:
                await self._store.wait_growth()

    def request(self) -> None:
        """Have `keep` look now: what is in force may be other than it was."""
        self._requested = True
        self._sleep_scope.cancel()

    async def collect(self, *, dry_run: bool) -> GcResult:
        """Throw away now what need not be kept, or only say what that is. Raises Problem storage_*."""
        with translate_storage_errors():
            if dry_run:
                before = await self._store.space_usage()
                return _gc_result(await self._simulate(before.used_bytes), before, dry_run=True)
            async with self._lock:
                before = await self._store.space_usage()
                gone = await self._enforce_limits("gc", full_sweep=True)
                after = await self._store.space_usage()
        gone.bytes = max(0, before.used_bytes - after.used_bytes)
        return _gc_result(gone, after, dry_run=False)

    def warnings(self) -> Iterator[str]:
        """What a person should know of the room there is."""
        if self._full_warning:
            yield self._full_warning
        if self._clock_guard.remaining_s and self._storage_settings().retain_closed_days is not None:
            yield _clock_jump_warning(self._clock_guard.remaining_s)
        if (wal_bytes := self._store.file_sizes().wal_bytes) > WAL_WARNING_BYTES:
            yield _wal_warning(wal_bytes)

    async def _run_once(self, *, full_sweep: bool) -> None:
        try:
            async with self._lock:
                gone = await self._enforce_limits(None, full_sweep=full_sweep)
        except StorageFailed as failure:
            log.warning("space is not kept", error=str(failure), hint=failure.hint)
        except Exception:
            log.exception("space is not kept")  # a bug in it is no reason to end what runs
        else:
            if gone != DeletionStats():
                log.info("thrown away", sessions=gone.sessions, outputs=gone.outputs, events=gone.events)
        self._log_wal_warning()

    def _log_wal_warning(self) -> None:
        """Once each time that it has become long."""
        wal_bytes = self._store.file_sizes().wal_bytes
        if wal_bytes > WAL_WARNING_BYTES and not self._wal_warned:
            log.warning(_wal_warning(wal_bytes))
        self._wal_warned = wal_bytes > WAL_WARNING_BYTES

    async def _enforce_limits(self, reason: ExpiryReason | None, *, full_sweep: bool) -> DeletionStats:
        """`whole`: sweep up in any case, what a crash has left too."""
        gone, storage = DeletionStats(), self._storage_settings()
        if full_sweep:
            await self._sweep(gone)
        waits = self._clock_guard.is_suspect()
        if storage.retain_closed_days is not None and (reason == "gc" or not waits):
            await self._expire_closed_before(
                self._clock() - storage.retain_closed_days * DAY_S, reason or "retention", gone
            )
        self._full_warning = ""
        while storage.max_db_bytes is not None and (excess := await self._excess_bytes(storage.max_db_bytes)) > 0:
            if not await self._free_space(excess, reason or "space", gone):
                self._set_full_warning(storage.max_db_bytes, excess)
                break
            await self._sweep(gone)
        return gone

    async def _expire_closed_before(self, closed_before: float, reason: ExpiryReason, stats: DeletionStats) -> None:
        """Throw away the sessions that were closed before then, but for those that somebody uses."""
        after = CURSOR_START
        while found := _take_batch(
            await self._store.closed_sessions(closed_before, after=after, target_bytes=NO_LIMIT, limit=BATCH_SIZE)
        ):
            after = found[-1].cursor
            if await self._expire_sessions([one.session for one in found], reason, stats):
                await self._sweep(stats)

    async def _free_space(self, excess_bytes: int, reason: ExpiryReason, stats: DeletionStats) -> bool:
        """Let go what goes first of what there is; whether there was anything."""
        if claims := await self._store.output_refs("closed", target_bytes=excess_bytes, limit=BATCH_SIZE):
            await self._release_outputs(claims)
            return True
        after, in_use = CURSOR_START, False
        while found := _take_batch(
            await self._store.closed_sessions(NO_LIMIT, after=after, target_bytes=excess_bytes, limit=BATCH_SIZE)
        ):
            after = found[-1].cursor
            worthy = [one.session for one in found if one.bytes]
            if await self._expire_sessions(worthy, reason, stats):
                return True
            in_use = in_use or bool(worthy)
        if in_use:
            return False
        if claims := await self._store.output_refs("all", target_bytes=excess_bytes, limit=BATCH_SIZE):
            await self._release_outputs(claims)
        return bool(claims)

    async def _expire_sessions(self, sessions: Iterable[int], reason: ExpiryReason, stats: DeletionStats) -> bool:
        """Throw away those of them that nobody uses; whether there was one."""
        with self._sessions.deletion_guard.try_delete(sessions, self._sessions.evict_if_unused) as going:
            if going:
                fact = SessionsExpired(ts=self._clock(), sessions=tuple(going), reason=reason)
                await self._daemon_recorder.record(fact, expired_sessions=going)
                self._on_event(fact)
        stats.sessions += len(going)
        return bool(going)

    async def _release_outputs(self, outputs: list[OutputRef]) -> None:
        await self._daemon_recorder.record(released_outputs=[(claim.session, claim.ref) for claim in outputs])

    async def _sweep(self, stats: DeletionStats) -> None:
        if unnamed := await self._store.unlisted_sessions():
            await self._daemon_recorder.record(SessionsExpired(ts=self._clock(), sessions=tuple(unnamed), reason="gc"))
        swept = await self._store.sweep()
        stats.events += swept.events
        stats.outputs += swept.outputs

    async def _excess_bytes(self, max_bytes: int) -> int:
        return (await self._store.space_usage()).used_bytes - max_bytes

    def _set_full_warning(self, max_bytes: int, excess_bytes: int) -> None:
        self._full_warning = (
            f"The database takes {(max_bytes + excess_bytes) / 1e6:.1f} MB, more than storage.max_db_bytes allows "
            f"({max_bytes / 1e6:.1f} MB), and what is in it belongs to sessions that are open or being read. "
            "Close some, or allow more."
        )

    async def _simulate(self, used_bytes: int) -> DeletionStats:
        """What `_throw_away` would do, as far as that can be told beforehand: who uses what is not."""
        storage = self._storage_settings()
        days, most = storage.retain_closed_days, storage.max_db_bytes
        until = None if days is None else self._clock() - days * DAY_S
        excess = 0 if most is None else used_bytes - most
        if until is None and excess <= 0:
            return DeletionStats()
        found = DeletionCandidates(
            closed_sessions=await self._store.closed_sessions(NO_LIMIT, target_bytes=NO_LIMIT, limit=NO_LIMIT),
            closed_only_outputs=await self._store.output_refs("closed", target_bytes=NO_LIMIT, limit=NO_LIMIT),
            outputs=await self._store.output_refs("all", target_bytes=NO_LIMIT, limit=NO_LIMIT),
        )
        return await trio.to_thread.run_sync(
            partial(simulate_retention, found, closed_before=until, excess_bytes=excess)
        )


def _take_batch(closed_sessions: Iterable[ClosedSession]) -> list[ClosedSession]:
    """The first of them, one at least, as far as they have so few turns that it is done soon."""
    few: list[ClosedSession] = []
    turns = 0
    for one in closed_sessions:
        turns += one.turns
        if few and turns > MAX_BATCH_TURNS:
            break
        few.append(one)
    return few


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
        "The time of day has leapt forward, or walrusd was not running for long: sessions past "
        f"storage.retain_closed_days are kept for {remaining_s / 3600:.1f} hours more. "
        "If the clock is wrong, set it right."
    )


def _wal_warning(wal_bytes: int) -> str:
    return (
        f"The write-ahead log takes {wal_bytes / 1e6:.0f} MB: another program reads walrus.db and does not come to an "
        "end, a backup or a shell perhaps (`fuser -v` on the file names it). It is short again when that has ended."
    )
