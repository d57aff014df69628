"""The log in a file: one writer thread with group commit, and a few readers beside it."""

import os
from functools import partial
from typing import Literal

import apsw
import trio

from walrus_protocol.chain import Head
from walrus_protocol.events import Tick
from walrus_protocol.searching import Hit
from walrusd.session.mend import Draft
from walrusd.session.outline import Outline
from walrusd.store import queries, room
from walrusd.store.chain import unnamed
from walrusd.store.database import Durability, let_go, open_for_writing
from walrusd.store.giveway import GiveWay
from walrusd.store.keeping import FIRST, Claim, Closed, Place, Room, Swept
from walrusd.store.log import (
    Filter,
    Opening,
    Queued,
    Schedule,
    Sent,
    Sizes,
    Span,
    StorageFailed,
    Stored,
    StreamPage,
    Wanted,
    Write,
)
from walrusd.store.pulse import Pulse
from walrusd.store.readers import READERS, Readers
from walrusd.store.refusals import refusal
from walrusd.store.search import search
from walrusd.store.stream import stream
from walrusd.store.sweep import Sweeper
from walrusd.store.writer import Writer

SEARCHERS = 1
"""Searches wait for each other, and no turn waits for one: what is sought badly may take a tenth of a second."""
STREAMERS = 1
"""So do the pages of the daemon-wide stream: a thousand who read it from its beginning are in nobody else's way."""
CLOSE_S = 30.0
"""Longer than any commit on a disk that lives."""


class SqliteLog:
    """A `Log` in SQLite. `submit` and `next_session` belong to trio's thread."""

    def __init__(self, path: str, db: apsw.Connection) -> None:
        self._path = path
        self._give_way = GiveWay()
        self._writer = Writer(db, trio.lowlevel.current_trio_token(), self._give_way, self._have_grown)
        self._readers = Readers(path, self._give_way, READERS)
        self._searchers = Readers(path, self._give_way, SEARCHERS)
        self._streamers = Readers(path, self._give_way, STREAMERS)
        self._sweep = Sweeper(self._readers, self._writer)
        self._growth = trio.Event()
        self.importing: set[int] = set()
        self._closed = False
        self._writer.start()
        trio.lowlevel.add_instrument(self._give_way)

    @classmethod
    async def open(cls, path: str, *, durability: Durability = "full", chain: bool = False) -> "SqliteLog":
        """Open or make the database at `path`, its events chained or not from now on. Raises CannotOpen."""
        db = await trio.to_thread.run_sync(partial(open_for_writing, path, durability, chain=chain))
        try:
            return cls(path, db)
        except apsw.Error as error:
            let_go(db)
            raise refusal(path, error) from error

    def submit(self, write: Write) -> None:
        self._writer.given = max(self._writer.given, write.session)
        self._writer.submit(write)

    def next_session(self) -> int:
        self._writer.given += 1
        return self._writer.given

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[Stored]:
        return await self._readers.read(queries.events, session, since, limit, max_bytes)

    def last_offset(self) -> int:
        return self._writer.offset

    async def stream(
        self, wanted: Wanted, since: int, upto: int, limit: int, max_bytes: int = 1024 * 1024
    ) -> StreamPage:
        return await self._streamers.read(stream, wanted, since, upto, limit, max_bytes)

    async def opening(self, session: int, limit: int, max_bytes: int = 1024 * 1024) -> Opening | None:
        return await self._readers.read(queries.opening, session, limit, max_bytes)

    async def outline(self, session: int) -> Outline | None:
        return await self._readers.read(queries.one_outline, session)

    async def outlines(self, wanted: Filter) -> list[tuple[Outline, int]]:
        return await self._readers.read(queries.outlines, wanted)

    async def queue(self, session: int) -> list[Queued]:
        return await self._readers.read(queries.queue, session)

    async def draft(self, session: int) -> Draft | None:
        return await self._readers.read(queries.draft, session)

    async def sent(self, session: int, key: str) -> Sent | None:
        return await self._readers.read(queries.sent, session, key)

    async def created_with(self, key: str) -> tuple[int, bytes] | None:
        return await self._readers.read(queries.created_with, key)

    async def span(self, session: int, turn: int) -> Span | None:
        return await self._readers.read(queries.span, session, turn)

    async def unfinished(self) -> list[int]:
        return await self._readers.read(queries.unfinished)

    async def open_sessions(self) -> int:
        return await self._readers.read(queries.open_sessions)

    async def output(self, session: int, ref: str, offset: int, limit: int) -> bytes | None:
        return await self._readers.read(queries.output, session, ref, offset, limit)

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        return await self._searchers.read(search, query, queries.LAST_ID if before is None else before, limit)

    async def schedules(self) -> list[Schedule]:
        return await self._readers.read(queries.schedules)

    async def ticks(
        self, schedule: str | None = None, *, before: int | None = None, news: bool = False, limit: int = 50
    ) -> list[Tick]:
        return await self._readers.read(queries.ticks, schedule, before=before, news=news, limit=limit)

    async def running_ticks(self) -> list[Tick]:
        return await self._readers.read(queries.running_ticks)

    async def last_of_daemon(self) -> tuple[int, int]:
        return await self._readers.read(queries.last_of_daemon)

    async def pulse(self) -> None:
        pulse = Pulse()
        self._writer.submit(pulse)
        await pulse.wait()

    @property
    def head(self) -> Head | None:
        """The last link of the chain, None where it is off. Before the first write, and after the last one."""
        return self._writer.head

    @property
    def trouble(self) -> str:
        """What a person should know where the last write failed; empty again when one has gone well."""
        return self._writer.last_write.trouble

    def sizes(self) -> Sizes:
        return Sizes(_size(self._path), _size(f"{self._path}-wal"))

    async def room(self) -> Room:
        return await self._readers.read(room.room)

    async def grown(self) -> None:
        await self._growth.wait()
        self._growth = trio.Event()

    def _have_grown(self) -> None:
        self._growth.set()

    async def closed(self, before: float, *, after: Place = FIRST, enough: int, most: int) -> list[Closed]:
        return await self._readers.read(room.closed, before, after, enough, most)

    async def outputs(self, of: Literal["closed", "all"], *, enough: int, most: int) -> list[Claim]:
        return await self._readers.read(room.outputs, of, enough, most)

    async def unnamed(self) -> list[int]:
        found = await self._readers.read(unnamed, [*self.importing])
        return [session for session in found if session not in self.importing]  # one may have begun meanwhile

    async def sweep(self) -> Swept:
        return await self._sweep(self.importing)

    async def aclose(self) -> None:
        """Finish what was submitted and release the file. Raises StorageFailed where the disk does not answer."""
        if self._closed:
            return
        self._closed = True
        self._readers.close()
        self._searchers.close()
        self._streamers.close()
        self._writer.stop()
        # Timed by the thread, in true seconds: a test's clock may jump while the disk works.
        with trio.CancelScope(shield=True):
            ended = await trio.to_thread.run_sync(self._writer.join, CLOSE_S)
        trio.lowlevel.remove_instrument(self._give_way)
        if not ended:
            raise StorageFailed(f"{self._path}: the disk has not answered for {CLOSE_S:.0f} s")


def _size(path: str) -> int:
    """0 where there is none: the write-ahead log goes with the last connection."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
