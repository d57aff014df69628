"""One who follows the whole daemon, over restarts: each fact once, in the order of offsets, byte for byte."""

import trio

from tests.runtime.model_based.archive import Archive
from walrus_protocol.events import Lagged, StateChanged, decode
from walrusd.runtime.streams.fanout import Subscription
from walrusd.runtime.streams.global_stream import GlobalStream
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, StreamItem
from walrusd.store.contract import StreamFilter


class Subscriber:
    def __init__(self, since: int) -> None:
        self.subscription: Subscription | None = None
        """While it is here."""
        self.is_slow = False
        self.is_polling = False
        """Somebody reads for it just now."""
        self._received: list[tuple[int, bytes]] = []
        self._last_offset = since
        """The offset that it saw last: all that it remembers."""
        self._checked_offset = since
        self._caught_up = False

    def subscribe(self, stream: GlobalStream, *, slow: bool) -> Subscription:
        self.is_slow, self.is_polling, self._caught_up = slow, False, False
        self.subscription = stream.subscribe(self._last_offset, StreamFilter(), announce_caught_up=True)
        return self.subscription

    def unsubscribe(self) -> None:
        if self.subscription:
            self.subscription.close()
        self.subscription = None

    async def read_batch(self, reader: Subscription, limit: int = 512) -> None:
        """Take what comes, one batch, unless it has left meanwhile."""
        items = await reader.next_batch(limit)
        if self.subscription is reader:
            for item in items:
                self._receive(item)

    async def poll(self, limit: int) -> None:
        """A slow one takes what there is."""
        if self.subscription and not self.is_polling:
            self.is_polling = True
            with trio.move_on_after(0.1):
                await self.read_batch(self.subscription, limit)
            self.is_polling = False

    def check(self, archive: Archive) -> None:
        """That it was told all up to where it is, and nothing that is not so."""
        assert self.subscription is None or self.is_slow or not self.subscription.has_pending
        for offset, wire in self._received:
            assert wire == archive.wire_bytes(offset), "byte for byte"
        upto = archive.last_offset if self.subscription and not self.is_slow else self._last_offset
        told = {offset for offset, _ in self._received}
        missing = [offset for offset in archive.expected_offsets(self._checked_offset, upto) if offset not in told]
        assert not missing, f"offsets {missing} were left out"
        self._received.clear()
        self._checked_offset = self._last_offset

    def check_complete(self, archive: Archive, since: int) -> None:
        """Of one who came behind that offset when nothing happens any more: it was told all that is still there."""
        assert [offset for offset, _ in self._received] == [
            offset for offset in archive.existing_offsets() if offset > since
        ]

    def _receive(self, item: StreamItem) -> None:
        match item:
            case LoggedEvent():
                assert item.offset > self._last_offset, "each comes once, in order"
                self._last_offset = item.offset
                self._received.append((item.offset, item.wire))
            case LiveEvent(event=event):
                assert decode(item.wire) == event
                assert not isinstance(event, Lagged), "no story is that long"
                if isinstance(event, StateChanged) and event.session is None:
                    assert not self._caught_up, "it is told once that it has caught up"
                    self._caught_up = True
