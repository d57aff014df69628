"""Something that the writer does between two batches: one transaction, and so short that nobody minds the wait."""

from collections.abc import Callable

import apsw

from walrusd.store.write_outcome import WriteOutcome


class WriterTask(WriteOutcome):
    """Done after the writes that were submitted before it, once. To be told of it may be waited for."""

    def __init__(self, work: Callable[[apsw.Connection], int]) -> None:
        super().__init__()
        self.work = work
        self._result = 0

    def run(self, db: apsw.Connection) -> Callable[[], None]:
        """In a transaction of the writer's, on its thread; what it gives is to be called when that is durable."""
        found = self.work(db)

        def done() -> None:
            self._result = found
            self.succeeded()

        return done

    async def wait_result(self) -> int:
        """What the work gave. Who is cancelled meanwhile leaves it done. Raises StorageFailed."""
        await self.wait()
        return self._result
