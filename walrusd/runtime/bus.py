"""The bounded fan-out of one session: a window of its latest facts, and readers that are cursors over it.

Facts are pulled from the window, or from the store where the window no longer reaches, so they are never
dropped. Live events are pushed into each reader's bounded buffer; those that do not fit are dropped and counted.
"""

from collections import deque
from collections.abc import Callable
from typing import Self

import trio
from msgspec import Struct

from walrus_protocol.content import State
from walrus_protocol.events import (
    AnyEvent,
    Durable,
    Lagged,
    Live,
    StateChanged,
    TextDelta,
    ThinkingDelta,
    decode_row,
    encode,
    spliced,
)
from walrusd.session.mend import Draft
from walrusd.store.log import Log

WINDOW = 256
"""Facts held for the readers of a session: a turn of sixteen rounds with several calls each fits."""
WINDOW_BYTES = 512 * 1024
"""Of those facts, all together, but for the latest: few sessions have readers that are further behind than that."""
LIVE_BUFFER = 1024
"""Live events held for one reader: some twenty seconds of a fast model's tokens."""
PAGE = 512
"""Rows read from the store at once."""


class Fact:
    """A durable event as it stands in the log. It is encoded and decoded at most once, and only when asked for."""

    __slots__ = ("_event", "_wire", "body", "offset", "seq")

    def __init__(self, *, seq: int, offset: int, body: bytes, event: Durable | None = None) -> None:
        self.seq = seq
        self.offset = offset
        self.body = body
        self._event = event
        self._wire: bytes | None = None

    @property
    def position(self) -> int:
        return self.seq

    @property
    def wire(self) -> bytes:
        """The event's JSON with seq and offset."""
        if self._wire is None:
            self._wire = spliced(self.body, self.seq, self.offset)
        return self._wire

    @property
    def event(self) -> Durable:
        if self._event is None:
            self._event = decode_row(self.body)
        return self._event


class Passing:
    """A live event. `position` is the seq of the last fact that came before it."""

    __slots__ = ("event", "position", "wire")

    def __init__(self, position: int, event: Live) -> None:
        self.position = position
        self.event: AnyEvent = event
        self.wire = encode(event)


Item = Fact | Passing


class Now(Struct, frozen=True, kw_only=True):
    """What a reader that has caught up is told of a session."""

    ts: float
    state: State
    turn: int | None = None
    draft: Draft | None = None


class Feed:
    """The fan-out of one session."""

    def __init__(self, session: int, log: Log, last_seq: int, now: Callable[[], Now]) -> None:
        self.session = session
        self.last_seq = last_seq
        self.now = now
        self._log = log
        self._window: deque[Fact] = deque()
        self._window_bytes = 0
        self._readers: set[Reader] = set()
        self._changed = trio.lowlevel.ParkingLot()

    def publish(self, fact: Fact) -> None:
        self._window.append(fact)
        self._window_bytes += len(fact.body)
        while len(self._window) > 1 and (len(self._window) > WINDOW or self._window_bytes > WINDOW_BYTES):
            self._window_bytes -= len(self._window.popleft().body)
        self.last_seq = fact.seq
        self.wake()

    def rest(self) -> None:
        """Hold nothing for readers while there are none: who comes later finds it in the store.

        It is two thirds of what a small session takes: bodies, decoded events and their wire form.
        """
        if not self._readers:
            self._window.clear()
            self._window_bytes = 0

    def pass_on(self, event: Live) -> None:
        """Push a live event to the readers that want such."""
        passing: Passing | None = None
        for reader in self._readers:
            if reader.wants(event):
                passing = passing or Passing(self.last_seq, event)
                reader.offer(passing)

    def wake(self) -> None:
        for reader in self._readers:
            reader.wake()
        self._changed.unpark_all()

    async def change(self) -> None:
        """Wait for the next fact."""
        await self._changed.park()

    def reader(self, since: int, *, deltas: bool = True, mark: bool = False) -> "Reader":
        """A cursor behind `since`. `mark`: tell with one live `state_changed` when it has caught up.

        Close it when done; it is also a context manager.
        """
        reader = Reader(self, since, deltas=deltas, mark=mark)
        self._readers.add(reader)
        return reader

    def forget(self, reader: "Reader") -> None:
        self._readers.discard(reader)

    def from_window(self, seq: int) -> Fact | None:
        if not self._window or not self._window[0].seq <= seq <= self._window[-1].seq:
            return None
        return self._window[seq - self._window[0].seq]

    async def from_store(self, since: int) -> list[Fact]:
        """Facts that are published: a row is in the store a moment before that, and the state is not yet after it."""
        rows = await self._log.events(self.session, since, PAGE)
        return [Fact(seq=row.seq, offset=row.offset, body=row.body) for row in rows if row.seq <= self.last_seq]


class Reader:
    """One subscription."""

    def __init__(self, feed: Feed, since: int, *, deltas: bool, mark: bool) -> None:
        self.cursor = since
        self.at_once: Callable[[Passing], bool] | None = None
        """Where a live event may go without waiting for the reader's task; False: it did not. Does not raise."""
        self._feed = feed
        self._deltas = deltas
        self._mark = mark
        self._caught_up = False
        self._page: deque[Fact] = deque()
        """What the window no longer has, from behind the cursor on: live events have their places in between."""
        self._live: deque[Passing] = deque()
        self._dropped = 0
        self._ended = False
        self._wakeup = trio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Have no more pushed to it. What it holds, and the log, it can still read."""
        self._feed.forget(self)

    @property
    def behind(self) -> bool:
        """Whether facts are recorded that it has not had yet."""
        return self.cursor < self._feed.last_seq

    def wants(self, event: Live) -> bool:
        if not self._caught_up:
            return False  # what is said meanwhile comes as one delta when it has
        return self._deltas or not isinstance(event, TextDelta | ThinkingDelta)

    def offer(self, passing: Passing) -> None:
        if passing.position <= self.cursor and not self._live and self.at_once and self.at_once(passing):
            return
        if len(self._live) >= LIVE_BUFFER:
            self._dropped += 1
            return
        self._live.append(passing)
        self.wake()

    def wake(self) -> None:
        self._wakeup.set()

    def end(self) -> None:
        """Nothing more is to be waited for."""
        self._ended = True
        self.wake()

    async def batch(self, limit: int = PAGE) -> list[Item]:
        """What comes next, in order: at least one item, as many as are there up to `limit`. Waits for the first.

        Empty only when it was ended and nothing is left.
        """
        while True:
            if items := self._ready(limit):
                return items
            if self.behind:
                self._page.extend(await self._feed.from_store(self.cursor))
                continue
            if self._ended:
                return []
            self._wakeup = trio.Event()
            await self._wakeup.wait()

    def _ready(self, limit: int) -> list[Item]:
        items: list[Item] = []
        while len(items) < limit:
            if self._live and self._live[0].position <= self.cursor:
                items.append(self._live.popleft())
            elif fact := self._next_fact():
                items.append(fact)
                self.cursor = fact.seq
            else:
                break
        if not self.behind and len(items) < limit:
            items += self._caught()
        return items

    def _next_fact(self) -> Fact | None:
        return self._page.popleft() if self._page else self._feed.from_window(self.cursor + 1)

    def _caught(self) -> list[Item]:
        if self._dropped and not self._live:
            dropped, self._dropped = self._dropped, 0
            now = self._feed.now()
            return [self._say(Lagged(ts=now.ts, session=self._feed.session, turn=now.turn, dropped=dropped))]
        if self._caught_up:
            return []
        self._caught_up = True
        now = self._feed.now()
        items: list[Item] = []
        if self._mark:
            items.append(self._say(StateChanged(ts=now.ts, session=self._feed.session, turn=now.turn, state=now.state)))
        if self._deltas and (draft := now.draft):
            said = ((ThinkingDelta, draft.thinking), (TextDelta, draft.text))
            items += [
                self._say(
                    kind(ts=now.ts, session=self._feed.session, turn=now.turn, text=text, round=draft.round, at=0)
                )
                for kind, text in said
                if text
            ]
        return items

    def _say(self, event: Live) -> Passing:
        return Passing(self.cursor, event)
