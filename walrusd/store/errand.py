"""Something that the writer does between two batches: one transaction, and so short that nobody minds the wait."""

from collections.abc import Callable

import apsw
import trio

from walrusd.store.log import StorageFailed


class Errand:
    """Done after the writes that were submitted before it, once. To be told of it may be waited for."""

    def __init__(self, work: Callable[[apsw.Connection], int]) -> None:
        self.work = work
        self._settled = trio.Event()
        self._found: list[int] = []
        self._failure: StorageFailed | None = None

    def run(self, db: apsw.Connection) -> Callable[[], None]:
        """In a transaction of the writer's, on its thread; what it gives is to be called when that is durable."""
        found = self.work(db)

        def done() -> None:
            self._found.append(found)
            self._settled.set()

        return done

    def failed(self, failure: StorageFailed) -> None:
        self._failure = failure
        self._settled.set()

    async def done(self) -> int:
        """What the work gave. Who is cancelled meanwhile leaves it done. Raises StorageFailed."""
        await self._settled.wait()
        if self._failure:
            raise self._failure
        return self._found[0]
