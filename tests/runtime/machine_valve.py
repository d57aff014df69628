"""A valve between the runtime and its log: a store that is slow, or fails, or is gone."""

from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import trio
import trio.testing
from msgspec.structs import replace

from tests.runtime.machine_archive import Archive
from walrus_protocol.events import Tick
from walrus_protocol.searching import Hit
from walrusd.session.mend import Draft
from walrusd.session.outline import Outline
from walrusd.store.keeping import FIRST, Claim, Closed, Place, Room, Swept
from walrusd.store.log import (
    Filter,
    Log,
    Opening,
    Queued,
    Schedule,
    Sent,
    Sizes,
    Span,
    StorageFailed,
    StorageFull,
    Stored,
    StreamPage,
    Wanted,
    Write,
)

T = TypeVar("T")
STORAGE: dict[str, StorageFailed] = {"storage_full": StorageFull("full"), "storage_failed": StorageFailed("broken")}


class Valve:
    """A `Log` before another one. What it holds back goes on, in order, when it is released.

    `archive` notes what is durable, until the power is cut.
    """

    def __init__(self, log: Log, archive: Archive | None = None) -> None:
        self.sweeps = True
        """Whether there is time for it."""
        self.has_failed = False
        """At least once in its life."""
        self.holds: Literal["before", "after"] | None = None
        self._open_for_good = False
        self.log = log
        self._archive = archive
        self._kept: list[Callable[[], None]] = []
        self._under_way = 0
        self._failing: StorageFailed | None = None
        self._moved = trio.Event()
        self._released = trio.Event()

    @property
    def failing(self) -> StorageFailed | None:
        return self._failing

    @failing.setter
    def failing(self, failure: StorageFailed | None) -> None:
        self._failing = failure
        self.has_failed = self.has_failed or failure is not None

    def cut(self) -> None:
        """The power is off."""
        self._archive = None
        self.failing = StorageFailed("the power is off")

    def hold(self, where: Literal["before", "after"]) -> None:
        if not self._open_for_good:
            self.holds = self.holds or where

    def release(self, *, for_good: bool = False) -> None:
        self.holds = None
        self._open_for_good = for_good
        self._released.set()
        self._released = trio.Event()
        kept, self._kept = self._kept, []
        for go_on in kept:
            go_on()

    async def flowing(self) -> None:
        """Wait until nothing is held back."""
        while self.holds:
            await self._released.wait()

    async def rest(self) -> None:
        """Wait until nothing moves, on the disk neither: only time, or an order, brings on what comes next."""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if not self._under_way:
                return
            self._moved = trio.Event()
            await self._moved.wait()

    def submit(self, write: Write) -> None:
        committed, failed = write.committed, write.failed
        written = replace(write)  # else it would hold itself, and its session

        def durable(offset: int) -> None:
            if self._archive:
                self._archive.note(written, offset)
            self._told(lambda: committed(offset))

        write.committed = durable
        write.failed = lambda error: self._told(lambda: failed(error))
        if self.holds == "before":
            self._kept.append(lambda: self._forward(write))
        else:
            self._forward(write)

    def _forward(self, write: Write) -> None:
        self._under_way += 1
        if self._archive:
            self._archive.asked(write)
        if self.failing:
            trio.lowlevel.current_trio_token().run_sync_soon(write.failed, self.failing)
        else:
            self.log.submit(write)

    def _told(self, tell: Callable[[], None]) -> None:
        self._moves()
        if self.holds == "after":
            self._kept.append(tell)
        else:
            tell()

    def _moves(self) -> None:
        self._under_way -= 1
        self._moved.set()

    async def _read(self, answer: Awaitable[T]) -> T:
        """A read that is held back saw the store as it was before."""
        self._under_way += 1
        try:
            found = await answer
        finally:
            self._moves()
        await self.flowing()
        return found

    def next_session(self) -> int:
        return self.log.next_session()

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[Stored]:
        return await self._read(self.log.events(session, since, limit, max_bytes))

    def last_offset(self) -> int:
        return self.log.last_offset()

    async def stream(
        self, wanted: Wanted, since: int, upto: int, limit: int, max_bytes: int = 1024 * 1024
    ) -> StreamPage:
        return await self._read(self.log.stream(wanted, since, upto, limit, max_bytes))

    async def opening(self, session: int, limit: int, max_bytes: int = 1024 * 1024) -> Opening | None:
        return await self._read(self.log.opening(session, limit, max_bytes))

    async def outline(self, session: int) -> Outline | None:
        return await self._read(self.log.outline(session))

    async def outlines(self, wanted: Filter) -> list[tuple[Outline, int]]:
        return await self._read(self.log.outlines(wanted))

    async def queue(self, session: int) -> list[Queued]:
        return await self._read(self.log.queue(session))

    async def draft(self, session: int) -> Draft | None:
        return await self._read(self.log.draft(session))

    async def sent(self, session: int, key: str) -> Sent | None:
        return await self._read(self.log.sent(session, key))

    async def created_with(self, key: str) -> tuple[int, bytes] | None:
        return await self._read(self.log.created_with(key))

    async def span(self, session: int, turn: int) -> Span | None:
        return await self._read(self.log.span(session, turn))

    async def unfinished(self) -> list[int]:
        return await self._read(self.log.unfinished())

    async def open_sessions(self) -> int:
        return await self._read(self.log.open_sessions())

    async def output(self, session: int, ref: str, offset: int, limit: int) -> bytes | None:
        return await self._read(self.log.output(session, ref, offset, limit))

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        return await self._read(self.log.search(query, before=before, limit=limit))

    async def schedules(self) -> list[Schedule]:
        return await self._read(self.log.schedules())

    async def ticks(
        self, schedule: str | None = None, *, before: int | None = None, news: bool = False, limit: int = 50
    ) -> list[Tick]:
        return await self._read(self.log.ticks(schedule, before=before, news=news, limit=limit))

    async def running_ticks(self) -> list[Tick]:
        return await self._read(self.log.running_ticks())

    async def last_of_daemon(self) -> tuple[int, int]:
        return await self._read(self.log.last_of_daemon())

    async def pulse(self) -> None:
        await self._read(self.log.pulse())

    def sizes(self) -> Sizes:
        return self.log.sizes()

    @property
    def importing(self) -> set[int]:
        return self.log.importing

    async def room(self) -> Room:
        return await self._read(self.log.room())

    async def grown(self) -> None:
        await self.log.grown()

    async def closed(self, before: float, *, after: Place = FIRST, enough: int, most: int) -> list[Closed]:
        return await self._read(self.log.closed(before, after=after, enough=enough, most=most))

    async def outputs(self, of: Literal["closed", "all"], *, enough: int, most: int) -> list[Claim]:
        return await self._read(self.log.outputs(of, enough=enough, most=most))

    async def unnamed(self) -> list[int]:
        return await self._read(self.log.unnamed())

    async def sweep(self) -> Swept:
        if not self.sweeps:
            return Swept(0, 0)
        if self.failing:
            raise self.failing
        return await self._read(self.log.sweep())

    async def aclose(self) -> None:
        await self.log.aclose()
