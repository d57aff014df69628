"""The writer of a database in a file: a thread that processes all queued items as one batch.

While a transaction is synced to the disk, the next batch gathers in the queue.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

import apsw
import trio

from walrusd.store.database import close_quietly
from walrusd.store.errors import StorageFailed
from walrusd.store.gil_yield import GilYieldInstrument
from walrusd.store.writer import Item, OutcomeCallback, Writer

MAX_BATCH = 512
"""Maximum items per batch: more would delay the first one, and save little of the shared sync."""
CLOSE_TIMEOUT_S = 30.0
"""Seconds to wait for the thread at closing: longer than any commit on a working disk."""


class WriterThread(Writer):
    """A writer with a thread of its own, which starts at once."""

    def __init__(self, db: apsw.Connection, on_growth: OutcomeCallback, gil_yield: GilYieldInstrument) -> None:
        self._token = trio.lowlevel.current_trio_token()
        super().__init__(db, lambda: self._token.run_sync_soon(on_growth))
        self._gil_yield = gil_yield
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._finished = False
        # A daemon thread: if trio's run ends without aclose, nothing else stops it.
        self._thread = threading.Thread(target=self._run, name="walrusd-store-writer", daemon=True)
        self._thread.start()
        trio.lowlevel.add_instrument(gil_yield)

    def submit(self, item: Item) -> None:
        self._gil_yield.submitted()
        self._queue.put(item)
        if self._finished:
            self._fail_remaining()

    async def aclose(self) -> None:
        self._queue.put(None)
        # The thread measures the timeout in real seconds: a test's clock may jump while the disk works.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join, CLOSE_TIMEOUT_S)
        trio.lowlevel.remove_instrument(self._gil_yield)
        if self._thread.is_alive():
            raise StorageFailed(f"{self._path}: the disk did not respond within {CLOSE_TIMEOUT_S:.0f} s")

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._process(batch)
                del batch  # a write keeps its session in memory
        except trio.RunFinishedError:
            pass  # no task is left to receive outcomes; the commits stay
        finally:
            self._close_database()
            self._finished = True
            self._fail_remaining()

    def _next_batch(self) -> list[Item]:
        """Waits for the next batch and returns it; an empty one requests the thread to stop."""
        batch: list[Item] = []
        while one := self._queue.get():
            batch.append(one)
            if len(batch) == MAX_BATCH or self._queue.empty():
                return batch
        if batch:
            self._queue.put(None)
        return batch

    def _close_database(self) -> None:
        self._store_last_session_id()
        with suppress(apsw.Error):
            # All acknowledged writes are in the write-ahead log, which the next start reads.
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        close_quietly(self._db)

    def _fail_remaining(self) -> None:
        """Fails items that came too late. The thread calls it at its end, and `submit` after that."""
        with suppress(Empty, trio.RunFinishedError):
            while True:
                if one := self._queue.get_nowait():
                    self._deliver([self._closed_outcome(one)])

    def _deliver(self, outcomes: Sequence[OutcomeCallback]) -> None:
        self._token.run_sync_soon(self._call_outcomes, outcomes)

    def _call_outcomes(self, outcomes: Sequence[OutcomeCallback]) -> None:
        self._gil_yield.delivered(len(outcomes))
        for outcome in outcomes:
            outcome()
