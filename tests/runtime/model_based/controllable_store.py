"""A store between the runtime and its log that can be made slow, fail or lose power."""

from collections.abc import Awaitable, Callable
from typing import Concatenate, Literal, ParamSpec, TypeVar

import apsw
import trio
import trio.testing
from msgspec.structs import replace

from tests.runtime.model_based.archive import Archive
from walrus_protocol.methods.search import Hit
from walrusd.session.session_state import SessionState
from walrusd.store.contract import FileSizes, Log, StreamFilter, StreamPage, Write
from walrusd.store.errors import StorageFailed, StorageFull
from walrusd.store.retention_contract import (
    CURSOR_START,
    ClosedSession,
    Cursor,
    OutputRef,
    SpaceUsage,
    SweepStats,
)
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.session import (
    SessionFilter,
    SessionSnapshot,
)

P = ParamSpec("P")
T = TypeVar("T")
STORAGE_FAILURES: dict[str, StorageFailed] = {
    "storage_full": StorageFull("full"),
    "storage_failed": StorageFailed("broken"),
}


class ControllableStore:
    """A `Log` that forwards to another one. Calls that it holds continue in order when they are released.

    `archive` notes what is durable, until the power cut.
    """

    def __init__(self, log: Log, archive: Archive | None = None) -> None:
        self.sweep_enabled = True
        """Whether a sweep deletes anything."""
        self.has_failed = False
        """Whether it was set to fail at least once."""
        self.held_at: Literal["before", "after"] | None = None
        self._released_for_good = False
        self.log = log
        self._archive = archive
        self._held_calls: list[Callable[[], None]] = []
        self._pending = 0
        self._failure: StorageFailed | None = None
        self._progress = trio.Event()
        self._released = trio.Event()

    @property
    def failure(self) -> StorageFailed | None:
        return self._failure

    @failure.setter
    def failure(self, failure: StorageFailed | None) -> None:
        self._failure = failure
        self.has_failed = self.has_failed or failure is not None

    def cut_power(self) -> None:
        """Fails every later write, and stops noting what is durable."""
        self._archive = None
        self.failure = StorageFailed("the power is off")

    def hold(self, when: Literal["before", "after"]) -> None:
        """Holds writes before they reach the log, or their outcomes afterwards; and results of reads."""
        if not self._released_for_good:
            self.held_at = self.held_at or when

    def release(self, *, for_good: bool = False) -> None:
        """Continues the held calls. `for_good`: later calls of `hold` have no effect."""
        self.held_at = None
        self._released_for_good = for_good
        self._released.set()
        self._released = trio.Event()
        held, self._held_calls = self._held_calls, []
        for call in held:
            call()

    async def wait_released(self) -> None:
        """Waits until nothing is held."""
        while self.held_at:
            await self._released.wait()

    async def wait_idle(self) -> None:
        """Waits until all tasks are blocked and no disk access is pending."""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if not self._pending:
                return
            self._progress = trio.Event()
            await self._progress.wait()

    def submit(self, write: Write) -> None:
        committed, failed = write.committed, write.failed
        copy = replace(write)  # a write that refers to itself would keep its session alive

        def durable(offset: int) -> None:
            if self._archive:
                self._archive.note_durable(copy, offset)
            self._deliver(lambda: committed(offset))

        write.committed = durable
        write.failed = lambda error: self._deliver(lambda: failed(error))
        if self.held_at == "before":
            self._held_calls.append(lambda: self._forward(write))
        else:
            self._forward(write)

    def _forward(self, write: Write) -> None:
        self._pending += 1
        if self._archive:
            self._archive.note_submitted(write)
        if self.failure:
            trio.lowlevel.current_trio_token().run_sync_soon(write.failed, self.failure)
        else:
            self.log.submit(write)

    def _deliver(self, callback: Callable[[], None]) -> None:
        self._note_progress()
        if self.held_at == "after":
            self._held_calls.append(callback)
        else:
            callback()

    def _note_progress(self) -> None:
        self._pending -= 1
        self._progress.set()

    async def _read(self, answer: Awaitable[T]) -> T:
        """Reads at once, and holds the result: a held read returns the earlier contents of the store."""
        self._pending += 1
        try:
            result = await answer
        finally:
            self._note_progress()
        await self.wait_released()
        return result

    def next_session(self) -> int:
        return self.log.next_session()

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[EventRow]:
        return await self._read(self.log.events(session, since, limit, max_bytes))

    def last_offset(self) -> int:
        return self.log.last_offset()

    async def stream_page(
        self, stream_filter: StreamFilter, since: int, upto: int, limit: int, max_bytes: int = 1024 * 1024
    ) -> StreamPage:
        return await self._read(self.log.stream_page(stream_filter, since, upto, limit, max_bytes))

    async def session_snapshot(self, session: int, limit: int, max_bytes: int = 1024 * 1024) -> SessionSnapshot | None:
        return await self._read(self.log.session_snapshot(session, limit, max_bytes))

    async def session_state(self, session: int) -> SessionState | None:
        return await self._read(self.log.session_state(session))

    async def list_sessions(self, session_filter: SessionFilter) -> list[tuple[SessionState, int]]:
        return await self._read(self.log.list_sessions(session_filter))

    async def read(self, query: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._read(self.log.read(query, *args, **kwargs))

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        return await self._read(self.log.search(query, before=before, limit=limit))

    async def wait_for_writes(self) -> None:
        await self._read(self.log.wait_for_writes())

    def file_sizes(self) -> FileSizes:
        return self.log.file_sizes()

    @property
    def importing_sessions(self) -> set[int]:
        return self.log.importing_sessions

    async def space_usage(self) -> SpaceUsage:
        return await self._read(self.log.space_usage())

    async def wait_growth(self) -> None:
        await self.log.wait_growth()

    async def closed_sessions(self, before: float, *, after: Cursor = CURSOR_START, limit: int) -> list[ClosedSession]:
        return await self._read(self.log.closed_sessions(before, after=after, limit=limit))

    async def output_refs(
        self, scope: Literal["closed", "open"], *, after: Cursor = CURSOR_START, limit: int
    ) -> list[OutputRef]:
        return await self._read(self.log.output_refs(scope, after=after, limit=limit))

    async def unlisted_sessions(self) -> list[int]:
        return await self._read(self.log.unlisted_sessions())

    async def sweep(self) -> SweepStats:
        if not self.sweep_enabled:
            return SweepStats(0, 0)
        if self.failure:
            raise self.failure
        return await self._read(self.log.sweep())

    async def aclose(self) -> None:
        await self.log.aclose()
