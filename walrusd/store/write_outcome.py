"""What becomes of something that was handed to the store: told once by a callback, and waited for by one task."""

import trio


class WriteOutcome:
    def __init__(self) -> None:
        self._finished = trio.Event()
        self._failure: Exception | None = None

    def succeeded(self, _: object = None) -> None:
        """It went well. What else is told of it is for others."""
        self._finished.set()

    def failed(self, failure: Exception) -> None:
        self._failure = failure
        self._finished.set()

    async def wait(self) -> None:
        """Raises what it failed with.

        Neither this nor its frame goes on knowing that, whose traceback knows both: in such a circle would be kept,
        until a collector comes by, all that the frames of the callers hold.
        """
        await self._finished.wait()
        failure, self._failure = self._failure, None
        try:
            if failure:
                raise failure
        finally:
            del failure

    async def wait_shielded(self) -> None:
        """As `wait`, and cannot be cancelled: the owner of the wait is the store, whose every write has an outcome."""
        with trio.CancelScope(shield=True):
            await self.wait()
