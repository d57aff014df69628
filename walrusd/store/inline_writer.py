"""The writer of a database in memory: it needs no thread, so that tests can use a clock that jumps."""

from collections.abc import Sequence

import apsw
import trio

from walrusd.store.writer import Item, OutcomeCallback, Writer


class InlineWriter(Writer):
    """A writer that processes all items of one tick of the loop as one batch, between two tasks."""

    def __init__(self, db: apsw.Connection, on_growth: OutcomeCallback) -> None:
        super().__init__(db, on_growth)
        self._queue: list[Item] = []
        self._closed = False

    def submit(self, item: Item) -> None:
        if not self._queue:
            trio.lowlevel.current_trio_token().run_sync_soon(self._process_queue)
        self._queue.append(item)

    async def aclose(self) -> None:
        """Finishes the submitted items. The database exists until nothing refers to its connection."""
        self._process_queue()
        self._store_last_session_id()
        self._closed = True
        await trio.lowlevel.checkpoint()

    def _process_queue(self) -> None:
        batch, self._queue = self._queue, []
        if self._closed:
            self._deliver([self._closed_outcome(item) for item in batch])
        else:
            self._process(batch)

    def _deliver(self, outcomes: Sequence[OutcomeCallback]) -> None:
        for outcome in outcomes:
            outcome()
