"""The outcome of an item submitted to the store: set once by a callback, and awaited by one task."""

import trio


class WriteOutcome:
    """A one-shot future. `succeeded` and `failed` are the callbacks of the item."""

    def __init__(self) -> None:
        self._finished = trio.Event()
        self._failure: Exception | None = None

    def succeeded(self, _: object = None) -> None:
        """Reports success. The argument, such as an offset, is ignored."""
        self._finished.set()

    def failed(self, failure: Exception) -> None:
        self._failure = failure
        self._finished.set()

    async def wait(self) -> None:
        """Waits for the outcome. Raises the exception that the item failed with.

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

    async def wait_shielded(self) -> None:
        """Waits as `wait` does, but cannot be cancelled: that is safe, since every write gets an outcome."""
        with trio.CancelScope(shield=True):
            await self.wait()
