"""A subscriber to the whole daemon, over restarts: it must receive each event once and in order."""

import trio

from tests.runtime.model_based.archive import Archive
from walrus_protocol.events import Lagged, StateChanged, decode
from walrusd.runtime.streams.fanout import Subscription
from walrusd.runtime.streams.global_stream import GlobalStream
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, StreamItem
from walrusd.store.contract import StreamFilter


class Subscriber:
    """A client that remembers the last offset it received, and continues from there."""

    def __init__(self, since: int) -> None:
        self.subscription: Subscription | None = None
        """Its subscription, while it is subscribed."""
        self.is_slow = False
        self.is_polling = False
        """Whether a `poll` is under way."""
        self._received: list[tuple[int, bytes]] = []
        self._last_offset = since
        """The offset of the last event that it received."""
        self._checked_offset = since
        self._caught_up = False

    def subscribe(self, stream: GlobalStream, *, slow: bool) -> Subscription:
        """Subscribes after the last received offset."""
        self.is_slow, self.is_polling, self._caught_up = slow, False, False
        self.subscription = stream.subscribe(self._last_offset, StreamFilter(), announce_caught_up=True)
        return self.subscription

    def unsubscribe(self) -> None:
        if self.subscription:
            self.subscription.close()
        self.subscription = None

    async def read_batch(self, subscription: Subscription, limit: int = 512) -> None:
        """Receives one batch, unless it has unsubscribed meanwhile."""
        items = await subscription.next_batch(limit)
        if self.subscription is subscription:
            for item in items:
                self._receive(item)

    async def poll(self, limit: int) -> None:
        """Lets a slow subscriber receive what is available."""
        if self.subscription and not self.is_polling:
            self.is_polling = True
            with trio.move_on_after(0.1):
                await self.read_batch(self.subscription, limit)
            self.is_polling = False

    def check(self, archive: Archive) -> None:
        """Checks that it received every event up to its position, and nothing else."""
        assert self.subscription is None or self.is_slow or not self.subscription.has_pending
        for offset, wire in self._received:
            assert wire == archive.wire_bytes(offset), "byte for byte"
        upto = archive.last_offset if self.subscription and not self.is_slow else self._last_offset
        received = {offset for offset, _ in self._received}
        missing = [offset for offset in archive.expected_offsets(self._checked_offset, upto) if offset not in received]
        assert not missing, f"offsets {missing} were left out"
        self._received.clear()
        self._checked_offset = self._last_offset

    def check_complete(self, archive: Archive, since: int) -> None:
        """Checks that it, subscribed when all was idle, received every existing event after `since`."""
        assert [offset for offset, _ in self._received] == [
            offset for offset in archive.existing_offsets() if offset > since
        ]

    def _receive(self, item: StreamItem) -> None:
        match item:
            case LoggedEvent():
                assert item.offset > self._last_offset, "each event comes once, in order"
                self._last_offset = item.offset
                self._received.append((item.offset, item.wire))
            case LiveEvent(event=event):
                assert decode(item.wire) == event
                assert not isinstance(event, Lagged), "no scenario is that long"
                if isinstance(event, StateChanged) and event.session is None:
                    assert not self._caught_up, "catching up is announced once"
                    self._caught_up = True
