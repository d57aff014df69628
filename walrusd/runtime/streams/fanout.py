"""Fan-out of events to subscriptions: a bounded window of the latest logged events, and cursors.

Subscriptions pull logged events from the window, or from the store if the window no longer has them, so these are never
dropped. Live events are pushed into a bounded buffer of each subscription; those that do not fit are dropped and
counted. `SessionStream` is the fan-out of one session; `global_stream` has the one of the whole daemon.
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
"""Maximum logged events in a session's window; a turn of sixteen rounds with several calls each fits."""
WINDOW_BYTES = 512 * 1024
"""Maximum bytes of those events, except the latest; few subscriptions are further behind."""
LIVE_BUFFER = 1024
"""Maximum live events buffered for one subscription: about twenty seconds of a fast model's tokens."""
PAGE_ROWS = 512
"""Maximum rows in one read from the store."""


class EventSource(Protocol):
    """The source of a subscription: the stream of a session, or of the whole daemon."""

    def position(self, logged_event: LoggedEvent) -> int:
        """Returns the position of an event in the order that cursors count by: seq or offset."""

    def next_buffered(self, subscription: "Subscription") -> tuple[LoggedEvent | None, int]:
        """Returns the next event for a subscription, or None if the window does not have it.

        Also returns the position up to which there is no event for the subscription before that one.
        """

    async def fetch_page(self, subscription: "Subscription") -> tuple[list[LoggedEvent], int]:
        """Returns the next published events for a subscription, and the position up to which that is all."""

    def snapshot(self) -> StreamSnapshot:
        """Returns the current state and the replies in progress."""

    def unsubscribe(self, subscription: "Subscription") -> None:
        """Stops delivery of new events to a subscription."""


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
        """Publishes a logged event to all subscriptions."""
        self._window.append(logged_event)
        self._window_bytes += len(logged_event.body)
        while len(self._window) > 1 and (len(self._window) > WINDOW_EVENTS or self._window_bytes > WINDOW_BYTES):
            self._window_bytes -= len(self._window.popleft().body)
        self.last_seq = logged_event.seq
        if self._subscriptions:
            for subscription in self._subscriptions:
                subscription.mark_pending(logged_event.seq)
            self._batched_wakeup.wake(self._subscriptions)
        self._changed.unpark_all()

    def release_window(self) -> None:
        """Empties the window if there are no subscriptions; later ones read the events from the store.

        The window (bodies, decoded events and their wire form) takes two thirds of the memory of a small session.
        """
        if not self._subscriptions:
            self._window.clear()
            self._window_bytes = 0

    def publish_live(self, live_event: LiveEvent) -> None:
        """Pushes a live event to the subscriptions."""
        if self._subscriptions:
            push_live(live_event, self._subscriptions, self._batched_wakeup)

    async def wait_next_event(self) -> None:
        """Waits until the next logged event is published."""
        await self._changed.park()

    def subscribe(self, since: int, *, deltas: bool = True, announce_caught_up: bool = False) -> "Subscription":
        """Returns a subscription to the events after `since`.

        Close it when done, or use it as a context manager.
        `announce_caught_up`: send one live `state_changed` when it has caught up with the log.
        """
        subscription = Subscription(
            self, since, self.last_seq, StreamFilter(include_deltas=deltas), announce_caught_up=announce_caught_up
        )
        self._subscriptions.add(subscription)
        return subscription

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
        # A row is in the store a moment before it is published and applied to the state: skip it until then.
        rows = await self._log.events(self.session, subscription.cursor, PAGE_ROWS)
        page = [LoggedEvent(seq=row.seq, offset=row.offset, body=row.body) for row in rows if row.seq <= self.last_seq]
        return page, page[-1].seq if page else self.last_seq  # do not wait for rows that were deleted


class Subscription:
    """A cursor over a stream, with a buffer of live events. One task reads it."""

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
        """Position up to which every matching logged event has been delivered."""
        self.stream_filter = stream_filter
        self.try_send_direct: Callable[[LiveEvent], bool] | None = None
        """Sends a live event past the reading task; returns False if it could not. Does not raise."""
        self._source = source
        self._last_pending = last_pending
        """Position of the last matching logged event that was published."""
        self._announce_caught_up = announce_caught_up
        self._caught_up = False
        self._page: deque[LoggedEvent] = deque()
        """Events from the store that follow the cursor, delivered one by one: live events may go in between."""
        self._page_end = since
        self._live_buffer: deque[tuple[int, LiveEvent]] = deque()
        """Live events, each with the position of the logged event that has to be delivered before it."""
        self._dropped = 0
        self._ended = False
        self._wakeup = trio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops delivery of new events. Buffered events, and the log, can still be read."""
        self._source.unsubscribe(self)

    @property
    def has_pending(self) -> bool:
        """Whether published logged events are not delivered yet."""
        return self.cursor < self._last_pending

    def mark_pending(self, position: int) -> None:
        """Registers a published event that matches. The events since the last matching one do not match."""
        if self.cursor >= self._last_pending:
            self.cursor = position - 1
        self._last_pending = position

    def push_live(self, live_event: LiveEvent, *, allow_direct: bool) -> bool:
        """Takes a live event; returns whether the reading task has to be woken for it."""
        if not self._caught_up:
            return False  # text that comes meanwhile is sent as one delta after catching up
        if not self.stream_filter.include_deltas and isinstance(live_event.event, TextDelta | ThinkingDelta):
            return False
        if (
            allow_direct
            and self.try_send_direct
            and self.cursor >= self._last_pending
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
        """Resumes the reading task."""
        self._wakeup.set()

    def end(self) -> None:
        """Ends the subscription: after the events that are left, `next_batch` returns an empty list."""
        self._ended = True
        self.wake()

    async def next_batch(self, limit: int = PAGE_ROWS) -> list[StreamItem]:
        """Returns the next items in order: as many as are available, at most `limit`. Waits for the first one.

        The list is empty only if the subscription was ended and nothing is left.
        """
        while True:
            if items := self._take_available(limit):
                return items
            if self.has_pending:
                page, self._page_end = await self._source.fetch_page(self)
                self._page.extend(page)
                if not page:
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
            elif logged_event := self._next_logged_event():
                items.append(logged_event)
            else:
                break
        if not self.has_pending and len(items) < limit:
            items += self._take_caught_up()
        return items

    def _next_logged_event(self) -> LoggedEvent | None:
        if self._page:
            logged_event = self._page.popleft()
            self.cursor = self._source.position(logged_event) if self._page else self._page_end
            return logged_event
        if not self.has_pending:
            return None
        buffered, self.cursor = self._source.next_buffered(self)
        if buffered:
            self.cursor = self._source.position(buffered)
        return buffered

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
        for reply in now.replies:
            for kind, text in ((ThinkingDelta, reply.draft.thinking), (TextDelta, reply.draft.text)):
                if text and self.stream_filter.matches(reply.session, reply.agent, event_type_of(kind)):
                    round_ = reply.draft.round
                    delta = kind(ts=now.ts, session=reply.session, turn=reply.turn, text=text, round=round_, at=0)
                    items.append(self._make_live_event(delta))
        return items

    def _make_live_event(self, event: AnyLiveEvent) -> LiveEvent:
        return LiveEvent(self.cursor, event)


def push_live(live_event: LiveEvent, subscriptions: Collection[Subscription], batched_wakeup: BatchedWakeup) -> None:
    """Sends directly to up to BATCH_SIZE subscriptions; wakes more than that in batches."""
    allow_direct = len(subscriptions) <= BATCH_SIZE
    targets: list[Subscription] = []
    for subscription in subscriptions:
        if subscription.push_live(live_event, allow_direct=allow_direct):
            targets.append(subscription)  # noqa: PERF401 - a comprehension is a call, for each token
    if targets:
        batched_wakeup.wake(targets)
