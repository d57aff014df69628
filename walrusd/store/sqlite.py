"""The event store in SQLite.

A database in a file has one writer thread with group commit, and several readers. One in memory has no threads.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Concatenate, Literal, ParamSpec, Self, TypeVar

import apsw
import trio

from walrus_protocol.database.hash_chain import ChainHead
from walrus_protocol.methods.search import Hit
from walrusd.session.session_state import SessionState
from walrusd.store import retention_queries
from walrusd.store.contract import FileSizes, StreamFilter, StreamPage, Write
from walrusd.store.database import Durability, close_quietly, open_for_writing, open_in_memory
from walrusd.store.errors import open_error
from walrusd.store.gil_yield import GilYieldInstrument
from walrusd.store.global_stream_query import read_stream_page
from walrusd.store.hash_chain import unlisted_sessions
from walrusd.store.inline_writer import InlineWriter
from walrusd.store.reader_pool import READER_COUNT, InlineReader, ReaderPool, Readers
from walrusd.store.retention_contract import (
    CURSOR_START,
    ClosedSession,
    Cursor,
    OutputRef,
    SpaceUsage,
    SweepStats,
)
from walrusd.store.search import search
from walrusd.store.sweep import Sweeper
from walrusd.store.tables.event import EventRow, read_events
from walrusd.store.tables.session import (
    SessionFilter,
    SessionSnapshot,
    list_sessions,
    read_session_state,
    read_snapshot,
)
from walrusd.store.tables.table import MAX_ID_PLUS_ONE
from walrusd.store.writer import Writer
from walrusd.store.writer_task import WriterTask
from walrusd.store.writer_thread import WriterThread

P = ParamSpec("P")
T = TypeVar("T")

SEARCH_READER_COUNT = 1
"""Number of concurrent searches: one, so that no turn waits for a search of a tenth of a second."""
STREAM_READER_COUNT = 1
"""Number of concurrent page reads of the global stream: one.

A thousand subscribers that read it from its beginning then delay only each other.
"""


class SqliteLog:
    """A `Log` in SQLite. Call `submit` and `next_session` on trio's thread only."""

    def __init__(self, db: apsw.Connection) -> None:
        """`db` is the writer's connection; the log closes it."""
        self._path = db.filename
        self._growth = trio.Event()
        self.importing_sessions: set[int] = set()
        self._closed = False
        if self._path:
            gil_yield = GilYieldInstrument()
            self._writer: Writer = WriterThread(db, self._notify_growth, gil_yield)
            self._readers: Readers = ReaderPool(self._path, gil_yield, READER_COUNT)
            self._search_readers: Readers = ReaderPool(self._path, gil_yield, SEARCH_READER_COUNT)
            self._stream_readers: Readers = ReaderPool(self._path, gil_yield, STREAM_READER_COUNT)
        else:
            self._writer = InlineWriter(db, self._notify_growth)
            self._readers = self._search_readers = self._stream_readers = InlineReader(db)
        self._sweeper = Sweeper(self._readers, self._writer)

    @classmethod
    async def open(cls, path: str, *, durability: Durability = "full", chain: bool = False) -> Self:
        """Opens or creates the database at `path`; `chain` switches the hash chain. Raises DatabaseUnusable."""
        db = await trio.to_thread.run_sync(partial(open_for_writing, path, durability, chain=chain))
        try:
            return cls(db)
        except apsw.Error as error:
            close_quietly(db)
            raise open_error(path, error) from error

    @classmethod
    def in_memory(cls) -> Self:
        """Creates a log that is lost with this object. Unlike `open`, it can be called outside of trio."""
        return cls(open_in_memory())

    def submit(self, write: Write) -> None:
        self._writer.last_session_id = max(self._writer.last_session_id, write.session)
        self._writer.submit(write)

    def next_session(self) -> int:
        self._writer.last_session_id += 1
        return self._writer.last_session_id

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[EventRow]:
        return await self._readers.read(read_events, session, since, limit, max_bytes)

    def last_offset(self) -> int:
        return self._writer.last_offset

    async def stream_page(
        self, stream_filter: StreamFilter, since: int, upto: int, limit: int, max_bytes: int = 1024 * 1024
    ) -> StreamPage:
        return await self._stream_readers.read(read_stream_page, stream_filter, since, upto, limit, max_bytes)

    async def session_snapshot(self, session: int, limit: int, max_bytes: int = 1024 * 1024) -> SessionSnapshot | None:
        return await self._readers.read(read_snapshot, session, limit, max_bytes)

    async def session_state(self, session: int) -> SessionState | None:
        return await self._readers.read(read_session_state, session)

    async def list_sessions(self, session_filter: SessionFilter) -> list[tuple[SessionState, int]]:
        return await self._readers.read(list_sessions, session_filter)

    async def read(self, query: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._readers.read(query, *args, **kwargs)

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        return await self._search_readers.read(search, query, MAX_ID_PLUS_ONE if before is None else before, limit)

    async def wait_for_writes(self) -> None:
        barrier = WriterTask()
        self._writer.submit(barrier)
        await barrier.wait()

    @property
    def chain_head(self) -> ChainHead | None:
        """The last link of the chain, or None if the chain is off.

        Read it before the first write or after the last one.
        """
        return self._writer.chain_head

    @property
    def write_warning(self) -> str:
        """A warning if the last write failed; empty again after a write that succeeded."""
        return self._writer.warning

    def file_sizes(self) -> FileSizes:
        return FileSizes(_file_size(self._path), _file_size(f"{self._path}-wal"))

    async def space_usage(self) -> SpaceUsage:
        return await self._readers.read(retention_queries.space_usage)

    async def wait_growth(self) -> None:
        await self._growth.wait()
        self._growth = trio.Event()

    def _notify_growth(self) -> None:
        self._growth.set()

    async def closed_sessions(self, before: float, *, after: Cursor = CURSOR_START, limit: int) -> list[ClosedSession]:
        return await self._readers.read(retention_queries.closed_sessions, before, after, limit)

    async def output_refs(
        self, scope: Literal["closed", "open"], *, after: Cursor = CURSOR_START, limit: int
    ) -> list[OutputRef]:
        return await self._readers.read(retention_queries.output_refs, scope, after, limit)

    async def unlisted_sessions(self) -> list[int]:
        found = await self._readers.read(unlisted_sessions, [*self.importing_sessions])
        # An import may have begun meanwhile.
        return [session for session in found if session not in self.importing_sessions]

    async def sweep(self) -> SweepStats:
        return await self._sweeper(self.importing_sessions)

    async def aclose(self) -> None:
        """Finishes the submitted writes and releases the file.

        Raises StorageFailed if the disk does not respond.
        """
        if self._closed:
            return
        self._closed = True
        self._readers.close()
        self._search_readers.close()
        self._stream_readers.close()
        await self._writer.aclose()


def _file_size(path: str) -> int:
    """Returns the size in bytes, or 0 if there is no file.

    The last connection deletes the write-ahead log.
    """
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
