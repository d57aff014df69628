"""The bounded fan-out: a window of the latest facts, and readers that are cursors over it.

Facts are pulled from the window, or from the store where the window no longer reaches, so they are never
dropped. Live events are pushed into each reader's bounded buffer; those that do not fit are dropped and counted.
`Feed` is that of one session; `everything` has that of the whole daemon.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol, Self

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
    type_of,
)
from walrusd.runtime.crowd import AT_ONCE, Crowd
from walrusd.session.mend import Draft
from walrusd.store.log import Log, Wanted

WINDOW = 256
"""Facts held for the readers of a session: a turn of sixteen rounds with several calls each fits."""
WINDOW_BYTES = 512 * 1024
"""Of those facts, all together, but for the latest: few sessions have readers that are further behind than that."""
LIVE_BUFFER = 1024
"""Live events held for one reader: some twenty seconds of a fast model's tokens."""
PAGE = 512
"""Rows read from the store at once."""


class Fact:
    """A durable event as it stands in the log. It is encoded and decoded at most once, and only when asked for.

    A seq of 0 is that of the daemon's own: nobody is told it.
    """

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
            self._wire = spliced(self.body, self.seq or None, self.offset)
        return self._wire

    @property
    def event(self) -> Durable:
        if self._event is None:
            self._event = decode_row(self.body)
        return self._event


class Passing:
    """A live event. `position` is the seq of the last fact that came before it in its session."""

    __slots__ = ("_wire", "event", "position")

    def __init__(self, position: int, event: Live) -> None:
        self.position = position
        self.event: AnyEvent = event
        self._wire: bytes | None = None

    @property
    def wire(self) -> bytes:
        if self._wire is None:
            self._wire = encode(self.event)
        return self._wire


Item = Fact | Passing


class Speaking(Struct, frozen=True, kw_only=True):
    """A reply under way."""

    session: int
    agent: str
    turn: int | None
    draft: Draft


class Now(Struct, frozen=True, kw_only=True):
    """What a reader that has caught up is told: of a session, or of the whole daemon, which is none."""

    ts: float
    session: int | None
    state: State
    turn: int | None = None
    speaking: tuple[Speaking, ...] = ()


class Source(Protocol):
    """What a reader reads."""

    def place(self, fact: Fact) -> int:
        """Where a fact stands in the order that cursors count by."""

    def in_window(self, reader: "Reader") -> tuple[Fact | None, int]:
        """The next fact for a reader, where the window has it, and how far there is none before it."""

    async def in_store(self, reader: "Reader") -> tuple[list[Fact], int]:
        """A page of what comes next for a reader, and how far that is all there is. Facts that are published."""

    def now(self) -> Now: ...

    def forget(self, reader: "Reader") -> None: ...


class Feed:
    """The fan-out of one session. Cursors count by seq."""

    def __init__(self, session: int, log: Log, last_seq: int, now: Callable[[], Now], crowd: Crowd) -> None:
        self.session = session
        self.last_seq = last_seq
        self.now = now
        self._log = log
        self._crowd = crowd
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
        for reader in self._readers:
            reader.owe(fact.seq)
        self._crowd.wake(self._readers)
        self._changed.unpark_all()

    def rest(self) -> None:
        """Hold nothing for readers while there are none: who comes later finds it in the store.

        It is two thirds of what a small session takes: bodies, decoded events and their wire form.
        """
        if not self._readers:
            self._window.clear()
            self._window_bytes = 0

    def pass_on(self, passing: Passing) -> None:
        """Push a live event to the readers that want such."""
        if self._readers:
            delta = isinstance(passing.event, TextDelta | ThinkingDelta)
            push(passing, [reader for reader in self._readers if reader.wanted.deltas or not delta], self._crowd)

    async def change(self) -> None:
        """Wait for the next fact."""
        await self._changed.park()

    def reader(self, since: int, *, deltas: bool = True, mark: bool = False) -> "Reader":
        """A cursor behind `since`. `mark`: tell with one live `state_changed` when it has caught up.

        Close it when done; it is also a context manager.
        """
        reader = Reader(self, since, self.last_seq, Wanted(deltas=deltas), mark=mark)
        self._readers.add(reader)
        return reader

    def forget(self, reader: "Reader") -> None:
        self._readers.discard(reader)

    def place(self, fact: Fact) -> int:
        return fact.seq

    def in_window(self, reader: "Reader") -> tuple[Fact | None, int]:
        seq = reader.cursor + 1
        if not self._window or not self._window[0].seq <= seq <= self._window[-1].seq:
            return None, reader.cursor
        return self._window[seq - self._window[0].seq], reader.cursor

    async def in_store(self, reader: "Reader") -> tuple[list[Fact], int]:
        """A row is in the store a moment before it is published, and the state is not yet after it."""
        rows = await self._log.events(self.session, reader.cursor, PAGE)
        facts = [Fact(seq=row.seq, offset=row.offset, body=row.body) for row in rows if row.seq <= self.last_seq]
        return facts, facts[-1].seq if facts else self.last_seq  # what is not there any more is not waited for


class Reader:
    """One subscription."""

    def __init__(self, source: Source, since: int, owed: int, wanted: Wanted, *, mark: bool) -> None:
        self.cursor = since
        """All that it has to have up to here it has had."""
        self.wanted = wanted
        self.at_once: Callable[[Passing], bool] | None = None
        """Where a live event may go without waiting for the reader's task; False: it did not. Does not raise."""
        self._source = source
        self._owed = owed
        """The place of the last fact that it has to have, or has had."""
        self._mark = mark
        self._caught_up = False
        self._page: deque[Fact] = deque()
        """What the window no longer has, from behind the cursor on: live events have their places in between."""
        self._page_end = since
        self._live: deque[tuple[int, Passing]] = deque()
        """Each with what was owed before it."""
        self._dropped = 0
        self._ended = False
        self._wakeup = trio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Have no more pushed to it. What it holds, and the log, it can still read."""
        self._source.forget(self)

    @property
    def behind(self) -> bool:
        """Whether facts are recorded that it has not had yet."""
        return self.cursor < self._owed

    def owe(self, place: int) -> None:
        """A fact was published that it has to have. What lies between that and the last one before is not for it."""
        if self.cursor >= self._owed:
            self.cursor = place - 1
        self._owed = place

    def offer(self, passing: Passing, *, at_once: bool) -> bool:
        """Take a live event; whether its task has to be woken for it."""
        if not self._caught_up:
            return False  # what is said meanwhile comes as one delta when it has
        if at_once and self.at_once and not self.behind and not self._live and self.at_once(passing):
            return False
        if len(self._live) < LIVE_BUFFER:
            self._live.append((self._owed, passing))
            return True
        self._dropped += 1
        return False

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
                facts, self._page_end = await self._source.in_store(self)
                self._page.extend(facts)
                if not facts:
                    self.cursor = self._page_end
                continue
            if self._ended:
                return []
            self._wakeup = trio.Event()
            await self._wakeup.wait()

    def _ready(self, limit: int) -> list[Item]:
        items: list[Item] = []
        while len(items) < limit:
            if self._live and self._live[0][0] <= self.cursor:
                items.append(self._live.popleft()[1])
            elif fact := self._next_fact():
                items.append(fact)
            else:
                break
        if not self.behind and len(items) < limit:
            items += self._caught()
        return items

    def _next_fact(self) -> Fact | None:
        if self._page:
            fact = self._page.popleft()
            self.cursor = self._source.place(fact) if self._page else self._page_end
            return fact
        if not self.behind:
            return None
        found, self.cursor = self._source.in_window(self)
        if found:
            self.cursor = self._source.place(found)
        return found

    def _caught(self) -> list[Item]:
        if self._dropped and not self._live:
            dropped, self._dropped = self._dropped, 0
            now = self._source.now()
            return [self._say(Lagged(ts=now.ts, session=now.session, turn=now.turn, dropped=dropped))]
        if self._caught_up:
            return []
        self._caught_up = True
        now = self._source.now()
        items: list[Item] = []
        if self._mark:
            items.append(self._say(StateChanged(ts=now.ts, session=now.session, turn=now.turn, state=now.state)))
        for one in now.speaking:
            for kind, text in ((ThinkingDelta, one.draft.thinking), (TextDelta, one.draft.text)):
                if text and self.wanted.has(one.session, one.agent, type_of(kind)):
                    said = kind(ts=now.ts, session=one.session, turn=one.turn, text=text, round=one.draft.round, at=0)
                    items.append(self._say(said))
        return items

    def _say(self, event: Live) -> Passing:
        return Passing(self.cursor, event)


def push(passing: Passing, readers: Collection[Reader], crowd: Crowd) -> None:
    """To a few at once, past their tasks; to a crowd by way of these."""
    few = len(readers) <= AT_ONCE
    crowd.wake([reader for reader in readers if reader.offer(passing, at_once=few)])
