"""Items of the write queue beside writes, and the outcome of an item, which one task awaits."""

from collections.abc import Callable

import apsw
import trio


class WriteOutcome:
    """A one-shot future. `succeeded` and `failed` are the callbacks of a write."""

    def __init__(self) -> None:
        self._finished = trio.Event()
        self._result = 0
        self._failure: Exception | None = None

    def succeeded(self, result: int = 0) -> None:
        """Reports success with a result, such as the offset of a write."""
        self._result = result
        self._finished.set()

    def failed(self, failure: Exception) -> None:
        self._failure = failure
        self._finished.set()

    async def wait(self) -> int:
        """Waits for the result. Raises the exception that the item failed with. Cancelling does not stop the item.

        Neither this object nor its frame keeps the exception, whose traceback refers to both. Such a reference cycle
        would keep alive, until the garbage collector runs, everything that the frames of the callers hold.
        """
        await self._finished.wait()
        failure, self._failure = self._failure, None
        try:
            if failure:
                raise failure
        finally:
            del failure
        return self._result

    async def wait_shielded(self) -> None:
        """Waits as `wait` does, but cannot be cancelled: that is safe, since every write gets an outcome."""
        with trio.CancelScope(shield=True):
            await self.wait()


class WriterTask(WriteOutcome):
    """A maintenance transaction that runs `work` between two batches; its result is that of the work.

    Without work it is a barrier: it writes nothing, and succeeds when all writes before it have an outcome.
    """

    def __init__(self, work: Callable[[apsw.Connection], int] | None = None) -> None:
        super().__init__()
        self.work = work
