"""The bounded fan-out: a window of the latest facts, and readers that are cursors over it.

Facts are pulled from the window, or from the store where the window no longer reaches, so they are never
dropped. Live events are pushed into each reader's bounded buffer; those that do not fit are dropped and counted.
`Feed` is that of one session; `everything` has that of the whole daemon.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol, Self

import trio

from walrus_protocol.events import (
    AnyLiveEvent,
    Lagged,
    StateChanged,
    TextDelta,
    ThinkingDelta,
    event_type_of,
)
from walrusd.runtime.streams.batched_wakeup import BATCH_SIZE, BatchedWakeup
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, StreamItem, StreamSnapshot
from walrusd.store.contract import Log, StreamFilter

WINDOW_EVENTS = 256
"""Facts held for the readers of a session: a turn of sixteen rounds with several calls each fits."""
WINDOW_BYTES = 512 * 1024
"""Of those facts, all together, but for the latest: few sessions have readers that are further behind than that."""
LIVE_BUFFER = 1024
"""Live events held for one reader: some twenty seconds of a fast model's tokens."""
PAGE_ROWS = 512
"""Rows read from the store at once."""


class EventSource(Protocol):
    """What a reader reads."""

    def position(self, logged_event: LoggedEvent) -> int:
        """Where a fact stands in the order that cursors count by."""

    def next_buffered(self, subscription: "Subscription") -> tuple[LoggedEvent | None, int]:
        """The next fact for a reader, where the window has it, and how far there is none before it."""

    async def fetch_page(self, subscription: "Subscription") -> tuple[list[LoggedEvent], int]:
        """A page of what comes next for a reader, and how far that is all there is. Facts that are published."""

    def snapshot(self) -> StreamSnapshot: ...

    def unsubscribe(self, subscription: "Subscription") -> None: ...


class SessionStream:
    """The fan-out of one session. Cursors count by seq."""

    def __init__(
        self,
        session: int,
        log: Log,
        last_seq: int,
        snapshot: Callable[[], StreamSnapshot],
        batched_wakeup: BatchedWakeup,
    ) -> None:
        self.session = session
        self.last_seq = last_seq
        self.snapshot = snapshot
        self._log = log
        self._batched_wakeup = batched_wakeup
        self._window: deque[LoggedEvent] = deque()
        self._window_bytes = 0
        self._subscriptions: set[Subscription] = set()
        self._changed = trio.lowlevel.ParkingLot()

    def publish(self, logged_event: LoggedEvent) -> None:
        self._window.append(logged_event)
        self._window_bytes += len(logged_event.body)
        while len(self._window) > 1 and (len(self._window) > WINDOW_EVENTS or self._window_bytes > WINDOW_BYTES):
            self._window_bytes -= len(self._window.popleft().body)
        self.last_seq = logged_event.seq
        for reader in self._subscriptions:
            reader.mark_pending(logged_event.seq)
        self._batched_wakeup.wake(self._subscriptions)
        self._changed.unpark_all()

    def release_window(self) -> None:
        """Hold nothing for readers while there are none: who comes later finds it in the store.

        It is two thirds of what a small session takes: bodies, decoded events and their wire form.
        """
        if not self._subscriptions:
            self._window.clear()
            self._window_bytes = 0

    def publish_live(self, live_event: LiveEvent) -> None:
        """Push a live event to the readers that want such."""
        if self._subscriptions:
            delta = isinstance(live_event.event, TextDelta | ThinkingDelta)
            push_live(
                live_event,
                [reader for reader in self._subscriptions if reader.stream_filter.include_deltas or not delta],
                self._batched_wakeup,
            )

    async def wait_next_event(self) -> None:
        """Wait for the next fact."""
        await self._changed.park()

    def subscribe(self, since: int, *, deltas: bool = True, announce_caught_up: bool = False) -> "Subscription":
        """A cursor behind `since`. `mark`: tell with one live `state_changed` when it has caught up.

        Close it when done; it is also a context manager.
        """
        reader = Subscription(
            self, since, self.last_seq, StreamFilter(include_deltas=deltas), announce_caught_up=announce_caught_up
        )
        self._subscriptions.add(reader)
        return reader

    def unsubscribe(self, subscription: "Subscription") -> None:
        self._subscriptions.discard(subscription)

    def position(self, logged_event: LoggedEvent) -> int:
        return logged_event.seq

    def next_buffered(self, subscription: "Subscription") -> tuple[LoggedEvent | None, int]:
        seq = subscription.cursor + 1
        if not self._window or not self._window[0].seq <= seq <= self._window[-1].seq:
            return None, subscription.cursor
        return self._window[seq - self._window[0].seq], subscription.cursor

    async def fetch_page(self, subscription: "Subscription") -> tuple[list[LoggedEvent], int]:
        """A row is in the store a moment before it is published, and the state is not yet after it."""
        rows = await self._log.events(self.session, subscription.cursor, PAGE_ROWS)
        facts = [LoggedEvent(seq=row.seq, offset=row.offset, body=row.body) for row in rows if row.seq <= self.last_seq]
        return facts, facts[-1].seq if facts else self.last_seq  # what is not there any more is not waited for


class Subscription:
    """One subscription."""

    def __init__(
        self,
        source: EventSource,
        since: int,
        last_pending: int,
        stream_filter: StreamFilter,
        *,
        announce_caught_up: bool,
    ) -> None:
        self.cursor = since
        """All that it has to have up to here it has had."""
        self.stream_filter = stream_filter
        self.try_send_direct: Callable[[LiveEvent], bool] | None = None
        """Where a live event may go without waiting for the reader's task; False: it did not. Does not raise."""
        self._source = source
        self._last_pending = last_pending
        """The place of the last fact that it has to have, or has had."""
        self._announce_caught_up = announce_caught_up
        self._caught_up = False
        self._page: deque[LoggedEvent] = deque()
        """What the window no longer has, from behind the cursor on: live events have their places in between."""
        self._page_end = since
        self._live_buffer: deque[tuple[int, LiveEvent]] = deque()
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
        self._source.unsubscribe(self)

    @property
    def has_pending(self) -> bool:
        """Whether facts are recorded that it has not had yet."""
        return self.cursor < self._last_pending

    def mark_pending(self, position: int) -> None:
        """A fact was published that it has to have. What lies between that and the last one before is not for it."""
        if self.cursor >= self._last_pending:
            self.cursor = position - 1
        self._last_pending = position

    def push_live(self, live_event: LiveEvent, *, allow_direct: bool) -> bool:
        """Take a live event; whether its task has to be woken for it."""
        if not self._caught_up:
            return False  # what is said meanwhile comes as one delta when it has
        if (
            allow_direct
            and self.try_send_direct
            and not self.has_pending
            and not self._live_buffer
            and self.try_send_direct(live_event)
        ):
            return False
        if len(self._live_buffer) < LIVE_BUFFER:
            self._live_buffer.append((self._last_pending, live_event))
            return True
        self._dropped += 1
        return False

    def wake(self) -> None:
        self._wakeup.set()

    def end(self) -> None:
        """Nothing more is to be waited for."""
        self._ended = True
        self.wake()

    async def next_batch(self, limit: int = PAGE_ROWS) -> list[StreamItem]:
        """What comes next, in order: at least one item, as many as are there up to `limit`. Waits for the first.

        Empty only when it was ended and nothing is left.
        """
        while True:
            if items := self._take_available(limit):
                return items
            if self.has_pending:
                facts, self._page_end = await self._source.fetch_page(self)
                self._page.extend(facts)
                if not facts:
                    self.cursor = self._page_end
                continue
            if self._ended:
                return []
            self._wakeup = trio.Event()
            await self._wakeup.wait()

    def _take_available(self, limit: int) -> list[StreamItem]:
        items: list[StreamItem] = []
        while len(items) < limit:
            if self._live_buffer and self._live_buffer[0][0] <= self.cursor:
                items.append(self._live_buffer.popleft()[1])
            elif fact := self._next_logged_event():
                items.append(fact)
            else:
                break
        if not self.has_pending and len(items) < limit:
            items += self._take_caught_up()
        return items

    def _next_logged_event(self) -> LoggedEvent | None:
        if self._page:
            fact = self._page.popleft()
            self.cursor = self._source.position(fact) if self._page else self._page_end
            return fact
        if not self.has_pending:
            return None
        found, self.cursor = self._source.next_buffered(self)
        if found:
            self.cursor = self._source.position(found)
        return found

    def _take_caught_up(self) -> list[StreamItem]:
        if self._dropped and not self._live_buffer:
            dropped, self._dropped = self._dropped, 0
            now = self._source.snapshot()
            return [self._make_live_event(Lagged(ts=now.ts, session=now.session, turn=now.turn, dropped=dropped))]
        if self._caught_up:
            return []
        self._caught_up = True
        now = self._source.snapshot()
        items: list[StreamItem] = []
        if self._announce_caught_up:
            items.append(
                self._make_live_event(StateChanged(ts=now.ts, session=now.session, turn=now.turn, state=now.state))
            )
        for one in now.replies:
            for kind, text in ((ThinkingDelta, one.draft.thinking), (TextDelta, one.draft.text)):
                if text and self.stream_filter.matches(one.session, one.agent, event_type_of(kind)):
                    said = kind(ts=now.ts, session=one.session, turn=one.turn, text=text, round=one.draft.round, at=0)
                    items.append(self._make_live_event(said))
        return items

    def _make_live_event(self, event: AnyLiveEvent) -> LiveEvent:
        return LiveEvent(self.cursor, event)


def push_live(live_event: LiveEvent, subscriptions: Collection[Subscription], batched_wakeup: BatchedWakeup) -> None:
    """To a few at once, past their tasks; to a crowd by way of these."""
    few = len(subscriptions) <= BATCH_SIZE
    batched_wakeup.wake([reader for reader in subscriptions if reader.push_live(live_event, allow_direct=few)])
