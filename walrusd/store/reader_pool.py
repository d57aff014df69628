"""Runs read queries: in worker threads with a pool of read-only connections, or inline for a database in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Concatenate, ParamSpec, TypeVar

import apsw
import trio

from walrus_protocol.json import BadJson
from walrusd.store.database import open_for_reading
from walrusd.store.errors import CORRUPTION_ERRORS, StorageFailed, open_error
from walrusd.store.gil_yield import GilYieldInstrument

READER_COUNT = 3
"""Number of concurrent queries: enough that a long page does not delay a short look-up.

All share one GIL anyway.
"""

P = ParamSpec("P")
T = TypeVar("T")


class ReaderPool:
    """Runs read queries. A query sees every earlier commit.

    Cancellation takes effect after the running query: it is one page at most.
    """

    def __init__(self, path: str, gil_yield: GilYieldInstrument, max_concurrent: int) -> None:
        """At most `max_concurrent` queries run at once; the others wait."""
        self._path = path
        self._gil_yield = gil_yield
        self._idle: list[apsw.Connection] = []
        self._limiter = trio.CapacityLimiter(max_concurrent)
        self._closed = False

    async def read(self, query: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns the result of the query. Raises StorageFailed."""

        def in_thread() -> T:
            return self._with_connection(lambda db: query(db, *args, **kwargs))

        self._gil_yield.submitted()
        try:
            return await trio.to_thread.run_sync(in_thread, limiter=self._limiter)
        finally:
            self._gil_yield.delivered(1)

    def close(self) -> None:
        """Rejects new queries. A running query finishes, and its connection is closed when it is returned."""
        self._closed = True
        self._close_idle()

    def _with_connection(self, query: Callable[[apsw.Connection], T]) -> T:
        if self._closed:
            raise StorageFailed(f"{self._path} is closed")
        with _read_errors(self._path):
            db = self._acquire()
            try:
                return query(db)
            finally:
                self._idle.append(db)
                if self._closed:
                    self._close_idle()

    def _acquire(self) -> apsw.Connection:
        with suppress(IndexError):
            return self._idle.pop()
        return open_for_reading(self._path)

    def _close_idle(self) -> None:
        """Closes the idle connections. Any thread can call it: each connection is popped by one thread only."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close(force=True)


class InlineReader:
    """Runs read queries on trio's thread with the only connection to a database in memory, the writer's.

    No transaction is open while a task runs.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._closed = False

    async def read(self, query: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns the result of the query. Raises StorageFailed."""
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise StorageFailed(":memory: is closed")
        with _read_errors(":memory:"):
            return query(self._db, *args, **kwargs)

    def close(self) -> None:
        """Rejects new queries."""
        self._closed = True


Readers = ReaderPool | InlineReader


@contextmanager
def _read_errors(path: str) -> Iterator[None]:
    """Turns errors of a query into StorageFailed."""
    try:
        yield
    except (*CORRUPTION_ERRORS, BadJson) as error:
        raise open_error(path, error) from error
    except apsw.Error as error:
        raise StorageFailed(f"cannot read {path}: {error}") from error
