"""The daemon-wide stream: the events of all sessions and the daemon events, in order of offsets.

Subscriptions are indexed by their filter, so an event costs nothing for those that it does not match: they are neither
examined nor woken. A matching subscription then pulls the event, as in a session's stream.
"""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from walrus_protocol.content import State
from walrus_protocol.events import (
    AnyDaemonEvent,
    Event,
    SessionClosed,
    SessionImported,
    SessionsExpired,
    Tick,
    event_type_of,
)
from walrusd.ports import Clock
from walrusd.runtime.streams.batched_wakeup import BatchedWakeup
from walrusd.runtime.streams.fanout import PAGE_ROWS, Subscription, push_live
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, ReplyInProgress, StreamSnapshot
from walrusd.store.contract import DELTA_TYPES, Log, StreamFilter

WINDOW_EVENTS = 4096
"""Maximum logged events in the window: a fifth of a second of sixty sessions at full speed.

The window is empty while there are no subscriptions.
"""
WINDOW_BYTES = 4 * 1024 * 1024
"""Maximum bytes of those events, except the latest."""

ALL_EVENTS: Hashable = "any"
"""Index key of subscriptions to all events."""
ALL_BUT_DELTAS: Hashable = "any but deltas"
"""Index key of subscriptions to all events except deltas."""


class _BufferedEvent(NamedTuple):
    logged_event: LoggedEvent
    session: int | None
    agent: str
    type: str


class GlobalStream:
    """The fan-out of the whole daemon. Cursors count by offset; between two offsets there may be gaps."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        *,
        running_turns: Callable[[], int] = lambda: 0,
        replies_in_progress: Callable[[], Iterable[ReplyInProgress]] = tuple,
    ) -> None:
        """Has to be created before anything is written: events in the log by then count as published."""
        self.batched_wakeup = BatchedWakeup()
        self.last_offset = log.last_offset()
        self._log = log
        self._clock = clock
        self._running_turns = running_turns
        self._replies_in_progress = replies_in_progress
        self._window: deque[_BufferedEvent] = deque()
        self._window_bytes = 0
        self.live_event_counts: Counter[type[Event]] = Counter()
        """Number of live events since the start, by type. Counted here, because each one passes here anyway."""
        self._subscriptions: dict[Hashable, set[Subscription]] = {}
        self._open_sessions: dict[Subscription, set[int]] = {}
        """The sessions not closed yet, of each subscription that ends with its sessions."""

    def publish(self, logged_event: LoggedEvent, agent: str) -> None:
        """Publishes a logged event of a session of `agent`."""
        self.last_offset = logged_event.offset
        if self._subscriptions:
            event = logged_event.event
            self._deliver(_BufferedEvent(logged_event, event.session, agent, event_type_of(type(event))))
            if isinstance(event, SessionClosed) and event.session is not None:
                for subscription in self._subscriptions.get(("session", event.session), ()):
                    self.mark_session_closed(subscription, event.session)

    def publish_daemon(self, offset: int, body: bytes, event: AnyDaemonEvent) -> None:
        """Publishes a daemon event."""
        self.last_offset = offset
        if isinstance(event, SessionImported | SessionsExpired):
            self._clear_window()  # the store now has earlier events that the window lacks, or no longer has some of it
        if self._subscriptions:
            agent = event.agent if isinstance(event, Tick | SessionImported) else ""
            self._deliver(
                _BufferedEvent(LoggedEvent(seq=0, offset=offset, body=body), None, agent, event_type_of(type(event)))
            )

    def publish_live(self, live_event: LiveEvent, agent: str) -> None:
        """Counts and publishes a live event of a session of `agent`."""
        event = live_event.event
        self.live_event_counts[type(event)] += 1
        if self._subscriptions:
            push_live(
                live_event,
                self._matching_subscriptions(event.session, agent, event_type_of(type(event))),
                self.batched_wakeup,
            )

    def subscribe(
        self, since: int | None, stream_filter: StreamFilter, *, announce_caught_up: bool = False
    ) -> Subscription:
        """Returns a subscription to the events after the offset `since`, or to new ones if that is None.

        The rest is as in `SessionStream.subscribe`.
        """
        last = self.last_offset
        subscription = Subscription(
            self, last if since is None else since, last, stream_filter, announce_caught_up=announce_caught_up
        )
        for key in _index_keys(stream_filter):
            self._subscriptions.setdefault(key, set()).add(subscription)
        return subscription

    def end_with_sessions(self, subscription: Subscription) -> None:
        """Ends the subscription when all sessions of its filter are closed.

        The caller has to report those that are closed already to `mark_session_closed`.
        """
        self._open_sessions[subscription] = set(subscription.stream_filter.sessions or ())

    def mark_session_closed(self, subscription: Subscription, session: int) -> None:
        """Removes a session from those that the subscription waits for, and ends it after the last one."""
        if (sessions := self._open_sessions.get(subscription)) is not None:
            sessions.discard(session)
            if not sessions:
                subscription.end()

    def unsubscribe(self, subscription: Subscription) -> None:
        self._open_sessions.pop(subscription, None)
        for key in _index_keys(subscription.stream_filter):
            if subscriptions := self._subscriptions.get(key):
                subscriptions.discard(subscription)
                if not subscriptions:
                    del self._subscriptions[key]
        if not self._subscriptions:
            self._clear_window()

    def position(self, logged_event: LoggedEvent) -> int:
        return logged_event.offset

    def next_buffered(self, subscription: Subscription) -> tuple[LoggedEvent | None, int]:
        window, cursor = self._window, subscription.cursor
        if not window or window[0].logged_event.offset > cursor + 1:
            return None, cursor
        for index in range(bisect_right(window, cursor, key=_offset), len(window)):
            buffered = window[index]
            if subscription.stream_filter.matches(buffered.session, buffered.agent, buffered.type):
                return buffered.logged_event, cursor
        return None, self.last_offset

    async def fetch_page(self, subscription: Subscription) -> tuple[list[LoggedEvent], int]:
        page = await self._log.stream_page(subscription.stream_filter, subscription.cursor, self.last_offset, PAGE_ROWS)
        return [LoggedEvent(seq=row.seq, offset=row.offset, body=row.body) for row in page.rows], page.upto

    def snapshot(self) -> StreamSnapshot:
        """Returns the state of the daemon, which is `processing` while a turn runs in any session."""
        state: State = "processing" if self._running_turns() else "idle"
        return StreamSnapshot(ts=self._clock(), session=None, state=state, replies=tuple(self._replies_in_progress()))

    def _deliver(self, buffered: _BufferedEvent) -> None:
        self._window.append(buffered)
        self._window_bytes += len(buffered.logged_event.body)
        while len(self._window) > 1 and (len(self._window) > WINDOW_EVENTS or self._window_bytes > WINDOW_BYTES):
            self._window_bytes -= len(self._window.popleft().logged_event.body)
        matching = self._matching_subscriptions(buffered.session, buffered.agent, buffered.type)
        for subscription in matching:
            subscription.mark_pending(buffered.logged_event.offset)
        self.batched_wakeup.wake(matching)

    def _clear_window(self) -> None:
        self._window.clear()
        self._window_bytes = 0

    def _matching_subscriptions(self, session: int | None, agent: str, type_: str) -> list[Subscription]:
        """Returns the subscriptions that match, in no order."""
        matching = [*self._subscriptions.get(ALL_EVENTS, ())]
        if type_ not in DELTA_TYPES:
            matching += self._subscriptions.get(ALL_BUT_DELTAS, ())
        for key in (("session", session), ("agent", agent), ("type", type_)):
            if subscriptions := self._subscriptions.get(key):
                matching += [
                    subscription
                    for subscription in subscriptions
                    if subscription.stream_filter.matches(session, agent, type_)
                ]
        return matching


def _index_keys(stream_filter: StreamFilter) -> list[Hashable]:
    """Returns the index keys of a subscription: those of its most selective criterion.

    No event matches two of its keys.
    """
    if stream_filter.sessions is not None:
        return [("session", session) for session in stream_filter.sessions]
    if stream_filter.agents is not None:
        return [("agent", agent) for agent in stream_filter.agents]
    if stream_filter.types is not None:
        return [("type", type_) for type_ in stream_filter.types]
    return [ALL_EVENTS if stream_filter.include_deltas else ALL_BUT_DELTAS]


def _offset(buffered: _BufferedEvent) -> int:
    return buffered.logged_event.offset
