"""What is kept, how long, and what goes first where there is not room for all: docs/space.md says it to people.

It looks at the start, every hour, when much was written, and when it is told to; a look that finds nothing to do is a
few questions to indexes.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf

import structlog
import trio

from walrus_config.schema import Storage
from walrus_protocol.content import ExpiredBy
from walrus_protocol.events import SessionsExpired
from walrus_protocol.housekeeping import Collected
from walrusd.forecast import Found, Gone, forecast
from walrusd.leaps import DAY_S, Leaps
from walrusd.ports import Clock
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.sessions import Sessions
from walrusd.runtime.told import storage_told
from walrusd.store.keeping import FIRST, Claim, Closed, Room
from walrusd.store.log import Log, StorageFailed

log = structlog.get_logger("walrusd")

HOUR_S = 3600.0
AT_ONCE = 64
"""Sessions, or outputs, that go in one transaction."""
TURNS_AT_ONCE = 1000
"""Of these sessions: so many rows of turns and of keys go with them, which takes some milliseconds. One goes always."""
LONG_WAL_BYTES = 64 * 1024 * 1024
"""Of the write-ahead log. No reader of walrusd's own brings it there."""
ALL = 2**53
"""Of bytes and rows, more than there are."""


class Space:
    """Throws away what need not be kept. One look at a time."""

    def __init__(
        self,
        store: Log,
        sessions: Sessions,
        facts: DaemonFacts,
        *,
        storage: Callable[[], Storage],
        clock: Clock,
        see: Callable[[SessionsExpired], None],
        last: float | None = None,
    ) -> None:
        """`storage` says what is in force. `see` is shown each fact, and does not raise. `last`: how late it was when
        walrusd last ran.
        """
        self._store = store
        self._sessions = sessions
        self._facts = facts
        self._storage = storage
        self._clock = clock
        self._see = see
        self._leaps = Leaps(clock, last)
        self._door = trio.Lock()
        self._rest = trio.CancelScope()
        self._asked = False
        self._full = ""
        self._wal_is_long = False

    async def keep(self) -> None:
        """Look whenever there is a reason to, until cancelled."""
        whole_at = trio.current_time()
        while True:
            whole = self._asked or trio.current_time() >= whole_at
            if whole:
                whole_at = trio.current_time() + HOUR_S
            self._asked = False
            await self._look(whole=whole)
            with trio.CancelScope(deadline=-inf if self._asked else whole_at) as self._rest:
                await self._store.grown()

    def look(self) -> None:
        """Have `keep` look now: what is in force may be other than it was."""
        self._asked = True
        self._rest.cancel()

    async def gc(self, *, dry_run: bool) -> Collected:
        """Throw away now what need not be kept, or only say what that is. Raises Problem storage_*."""
        with storage_told():
            if dry_run:
                before = await self._store.room()
                return _collected(await self._forecast(before.used_bytes), before, dry_run=True)
            async with self._door:
                before = await self._store.room()
                gone = await self._throw_away("gc", whole=True)
                after = await self._store.room()
        gone.bytes = max(0, before.used_bytes - after.used_bytes)
        return _collected(gone, after, dry_run=False)

    def warnings(self) -> Iterator[str]:
        """What a person should know of the room there is."""
        if self._full:
            yield self._full
        if self._leaps.left_s and self._storage().retain_closed_days is not None:
            yield _leapt(self._leaps.left_s)
        if (wal_bytes := self._store.sizes().wal_bytes) > LONG_WAL_BYTES:
            yield _long_wal(wal_bytes)

    async def _look(self, *, whole: bool) -> None:
        try:
            async with self._door:
                gone = await self._throw_away(None, whole=whole)
        except StorageFailed as failure:
            log.warning("space is not kept", error=str(failure), hint=failure.hint)
        except Exception:
            log.exception("space is not kept")  # a bug in it is no reason to end what runs
        else:
            if gone != Gone():
                log.info("thrown away", sessions=gone.sessions, outputs=gone.outputs, events=gone.events)
        self._tell_of_wal()

    def _tell_of_wal(self) -> None:
        """Once each time that it has become long."""
        wal_bytes = self._store.sizes().wal_bytes
        if wal_bytes > LONG_WAL_BYTES and not self._wal_is_long:
            log.warning(_long_wal(wal_bytes))
        self._wal_is_long = wal_bytes > LONG_WAL_BYTES

    async def _throw_away(self, by: ExpiredBy | None, *, whole: bool) -> Gone:
        """`whole`: sweep up in any case, what a crash has left too."""
        gone, storage = Gone(), self._storage()
        if whole:
            await self._sweep(gone)
        waits = self._leaps.waits()
        if storage.retain_closed_days is not None and (by == "gc" or not waits):
            await self._retire(self._clock() - storage.retain_closed_days * DAY_S, by or "retention", gone)
        self._full = ""
        while storage.max_db_bytes is not None and (excess := await self._excess(storage.max_db_bytes)) > 0:
            if not await self._make_room(excess, by or "space", gone):
                self._say_full(storage.max_db_bytes, excess)
                break
            await self._sweep(gone)
        return gone

    async def _retire(self, until: float, by: ExpiredBy, gone: Gone) -> None:
        """Throw away the sessions that were closed before then, but for those that somebody uses."""
        after = FIRST
        while found := _few(await self._store.closed(until, after=after, enough=ALL, most=AT_ONCE)):
            after = found[-1].place
            if await self._expire([one.session for one in found], by, gone):
                await self._sweep(gone)

    async def _make_room(self, excess: int, by: ExpiredBy, gone: Gone) -> bool:
        """Let go what goes first of what there is; whether there was anything."""
        if claims := await self._store.outputs("closed", enough=excess, most=AT_ONCE):
            await self._release(claims)
            return True
        after, in_use = FIRST, False
        while found := _few(await self._store.closed(ALL, after=after, enough=excess, most=AT_ONCE)):
            after = found[-1].place
            worthy = [one.session for one in found if one.bytes]
            if await self._expire(worthy, by, gone):
                return True
            in_use = in_use or bool(worthy)
        if in_use:
            return False
        if claims := await self._store.outputs("all", enough=excess, most=AT_ONCE):
            await self._release(claims)
        return bool(claims)

    async def _expire(self, sessions: Iterable[int], by: ExpiredBy, gone: Gone) -> bool:
        """Throw away those of them that nobody uses; whether there was one."""
        with self._sessions.departures.leaving(sessions, self._sessions.at_rest) as going:
            if going:
                fact = SessionsExpired(ts=self._clock(), sessions=tuple(going), reason=by)
                await self._facts.record(fact, expired=going)
                self._see(fact)
        gone.sessions += len(going)
        return bool(going)

    async def _release(self, claims: list[Claim]) -> None:
        await self._facts.record(released=[(claim.session, claim.ref) for claim in claims])

    async def _sweep(self, gone: Gone) -> None:
        if unnamed := await self._store.unnamed():
            await self._facts.record(SessionsExpired(ts=self._clock(), sessions=tuple(unnamed), reason="gc"))
        swept = await self._store.sweep()
        gone.events += swept.events
        gone.outputs += swept.outputs

    async def _excess(self, most: int) -> int:
        return (await self._store.room()).used_bytes - most

    def _say_full(self, most: int, excess: int) -> None:
        self._full = (
            f"The database takes {(most + excess) / 1e6:.1f} MB, more than storage.max_db_bytes allows "
            f"({most / 1e6:.1f} MB), and what is in it belongs to sessions that are open or being read. "
            "Close some, or allow more."
        )

    async def _forecast(self, used: int) -> Gone:
        """What `_throw_away` would do, as far as that can be told beforehand: who uses what is not."""
        storage = self._storage()
        days, most = storage.retain_closed_days, storage.max_db_bytes
        until = None if days is None else self._clock() - days * DAY_S
        excess = 0 if most is None else used - most
        if until is None and excess <= 0:
            return Gone()
        found = Found(
            closed=await self._store.closed(ALL, enough=ALL, most=ALL),
            of_closed=await self._store.outputs("closed", enough=ALL, most=ALL),
            outputs=await self._store.outputs("all", enough=ALL, most=ALL),
        )
        return await trio.to_thread.run_sync(partial(forecast, found, until=until, excess=excess))


def _few(found: Iterable[Closed]) -> list[Closed]:
    """The first of them, one at least, as far as they have so few turns that it is done soon."""
    few: list[Closed] = []
    turns = 0
    for one in found:
        turns += one.turns
        if few and turns > TURNS_AT_ONCE:
            break
        few.append(one)
    return few


def _collected(gone: Gone, room: Room, *, dry_run: bool) -> Collected:
    return Collected(
        dry_run=dry_run,
        sessions=gone.sessions,
        outputs=gone.outputs,
        events=gone.events,
        bytes=gone.bytes,
        db_bytes=room.used_bytes + room.free_bytes,
    )


def _leapt(left_s: float) -> str:
    return (
        "The time of day has leapt forward, or walrusd was not running for long: sessions past "
        f"storage.retain_closed_days are kept for {left_s / 3600:.1f} hours more. If the clock is wrong, set it right."
    )


def _long_wal(wal_bytes: int) -> str:
    return (
        f"The write-ahead log takes {wal_bytes / 1e6:.0f} MB: another program reads walrus.db and does not come to an "
        "end, a backup or a shell perhaps (`fuser -v` on the file names it). It is short again when that has ended."
    )
