"""A short maintenance transaction that the writer thread runs between two batches."""

from collections.abc import Callable

import apsw

from walrusd.store.write_outcome import WriteOutcome


class WriterTask(WriteOutcome):
    """An item of the write queue that runs `work` once, after the writes that were submitted before it."""

    def __init__(self, work: Callable[[apsw.Connection], int]) -> None:
        super().__init__()
        self.work = work
        self._result = 0

    def run(self, db: apsw.Connection) -> Callable[[], None]:
        """Runs the work in a transaction on the writer's thread; returns a callback for after the commit."""
        result = self.work(db)

        def succeeded() -> None:
            self._result = result
            self.succeeded()

        return succeeded

    async def wait_result(self) -> int:
        """Waits for the result of the work. Raises StorageFailed.

        Cancelling the wait does not cancel the work.
        """
        await self.wait()
        return self._result
