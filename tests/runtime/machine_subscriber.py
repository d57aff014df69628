"""One who follows the whole daemon, over restarts: each fact once, in the order of offsets, byte for byte."""

import trio

from tests.runtime.machine_archive import Archive
from walrus_protocol.events import Lagged, StateChanged, decode
from walrusd.runtime.bus import Fact, Item, Passing, Reader
from walrusd.runtime.everything import Everything
from walrusd.store.log import Wanted


class Subscriber:
    def __init__(self, since: int) -> None:
        self.reader: Reader | None = None
        """While it is here."""
        self.slow = False
        self.looks = False
        """Somebody reads for it just now."""
        self._told: list[tuple[int, bytes]] = []
        self._last = since
        """The offset that it saw last: all that it remembers."""
        self._checked = since
        self._marked = False

    def join(self, everything: Everything, *, slow: bool) -> Reader:
        self.slow, self.looks, self._marked = slow, False, False
        self.reader = everything.reader(self._last, Wanted(), mark=True)
        return self.reader

    def leave(self) -> None:
        if self.reader:
            self.reader.close()
        self.reader = None

    async def follow(self, reader: Reader, limit: int = 512) -> None:
        """Take what comes, one batch, unless it has left meanwhile."""
        items = await reader.batch(limit)
        if self.reader is reader:
            for item in items:
                self._see(item)

    async def look(self, limit: int) -> None:
        """A slow one takes what there is."""
        if self.reader and not self.looks:
            self.looks = True
            with trio.move_on_after(0.1):
                await self.follow(self.reader, limit)
            self.looks = False

    def check(self, archive: Archive) -> None:
        """That it was told all up to where it is, and nothing that is not so."""
        assert self.reader is None or self.slow or not self.reader.behind
        for offset, wire in self._told:
            assert wire == archive.wire(offset), "byte for byte"
        upto = archive.last_offset if self.reader and not self.slow else self._last
        told = {offset for offset, _ in self._told}
        missing = [offset for offset in archive.news(self._checked, upto) if offset not in told]
        assert not missing, f"offsets {missing} were left out"
        self._told.clear()
        self._checked = self._last

    def check_whole(self, archive: Archive, since: int) -> None:
        """Of one who came behind that offset when nothing happens any more: it was told all that is still there."""
        assert [offset for offset, _ in self._told] == [offset for offset in archive.there() if offset > since]

    def _see(self, item: Item) -> None:
        match item:
            case Fact():
                assert item.offset > self._last, "each comes once, in order"
                self._last = item.offset
                self._told.append((item.offset, item.wire))
            case Passing(event=event):
                assert decode(item.wire) == event
                assert not isinstance(event, Lagged), "no story is that long"
                if isinstance(event, StateChanged) and event.session is None:
                    assert not self._marked, "it is told once that it has caught up"
                    self._marked = True
