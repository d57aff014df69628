"""A question among the writes, whether the store still gets through with them."""

import trio

from walrusd.store.log import StorageFailed


class Pulse:
    """Waits for its turn behind the writes that were submitted before it. Nothing is written for it."""

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._failure: StorageFailed | None = None

    def answered(self) -> None:
        self._settled.set()

    def failed(self, failure: StorageFailed) -> None:
        self._failure = failure
        self._settled.set()

    async def wait(self) -> None:
        """Raises StorageFailed where nobody is left to answer."""
        await self._settled.wait()
        if self._failure:
            raise self._failure
