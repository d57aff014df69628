"""A reader of one session that checks every item: events once and in order, live text at its place."""

from collections.abc import Sequence

from walrus_protocol.content import plain_text
from walrus_protocol.events import (
    AnyLiveEvent,
    AssistantMessage,
    Lagged,
    MessageQueued,
    StateChanged,
    TextDelta,
    ThinkingDelta,
    decode,
)
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, StreamItem
from walrusd.session.session import Session
from walrusd.store.tables.event import EventRow


class Watcher:
    """A checking reader. `marks`: its subscription announces when it has caught up.

    One that reads from the beginning checks the state as well.
    """

    def __init__(self, session: int, since: int, *, deltas: bool = True, marks: bool = False) -> None:
        self.is_polling = False
        """Whether a poll is under way."""
        self.rows: list[EventRow] = []
        """The events that it received."""
        self.session = session
        self._since = since
        self._session = Session(session)
        self._replays = since == 0
        self._last_seq = since
        self._offset = 0
        self._deltas = deltas
        self._expects_mark = marks
        self._caught_up = False
        self._chunk_text: dict[tuple[type[AnyLiveEvent], int | None, int], str] = {}
        """Live text by kind, turn and round, until the message of the round comes."""

    def check(self, rows: Sequence[EventRow]) -> None:
        """Checks that it received the log from its start on."""
        assert self.rows == rows[self._since : self._since + len(self.rows)]

    def receive(self, item: StreamItem) -> None:
        match item:
            case LoggedEvent():
                self._receive_logged(item)
            case LiveEvent(event=event):
                assert decode(item.wire) == event
                self._receive_live(event)

    def _receive_logged(self, logged: LoggedEvent) -> None:
        assert logged.seq == self._last_seq + 1, "events come once, and none is left out"
        assert logged.offset > self._offset, "offsets rise"
        self._last_seq, self._offset = logged.seq, logged.offset
        self.rows.append(EventRow(logged.seq, logged.offset, logged.body))
        sent = decode(logged.wire)
        assert (sent.session, sent.seq, sent.offset) == (self._session.id, logged.seq, logged.offset)
        if self._replays:
            self._session.apply(logged.event)
        if isinstance(logged.event, AssistantMessage):
            self._check_message(logged.event)

    def _check_message(self, message: AssistantMessage) -> None:
        for kind, text in ((TextDelta, plain_text(message.content)), (ThinkingDelta, message.thinking)):
            live_text = self._chunk_text.pop((kind, message.turn, message.round), "")
            if live_text or (self._caught_up and self._deltas):
                assert live_text == text, "the live text equals the recorded message"

    def _receive_live(self, event: object) -> None:
        match event:
            case TextDelta() | ThinkingDelta():
                assert self._deltas
                assert self._caught_up or not self._expects_mark, "deltas come after the mark"
                text = self._chunk_text.get((type(event), event.turn, event.round), "")
                assert event.at == len(text), "deltas come without a gap, and none twice"
                self._chunk_text[type(event), event.turn, event.round] = text + event.text
                if self._replays:
                    turn = self._session.turn
                    assert turn is not None
                    assert (turn.number, turn.rounds + 1, turn.needs_model) == (event.turn, event.round, True)
            case StateChanged(state=state):
                self._caught_up = True
                if self._replays:
                    assert state == self._session.state.state
            case MessageQueued():
                pass
            case Lagged():
                raise AssertionError("no scenario is that long")
            case _:
                raise AssertionError(event)
