"""A reader of one session that believes nothing: every fact once and in order, what is said in its place."""

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
from walrusd.store.contract import EventRow


class Watcher:
    """`marks`: its reader is told when it has caught up. One that reads from the beginning knows the state as well."""

    def __init__(self, session: int, since: int, *, deltas: bool = True, marks: bool = False) -> None:
        self.is_polling = False
        """Somebody reads for it just now."""
        self.rows: list[EventRow] = []
        """What it was told, as it was told."""
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
        """What was said of a round, by kind, turn and round, until its message came."""

    def check(self, rows: Sequence[EventRow]) -> None:
        """What it was told is what the log says from where it began."""
        assert self.rows == rows[self._since : self._since + len(self.rows)]

    def receive(self, item: StreamItem) -> None:
        match item:
            case LoggedEvent():
                self._receive_logged(item)
            case LiveEvent(event=event):
                assert decode(item.wire) == event
                self._receive_live(event)

    def _receive_logged(self, logged: LoggedEvent) -> None:
        assert logged.seq == self._last_seq + 1, "facts come once, and none is left out"
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
            said = self._chunk_text.pop((kind, message.turn, message.round), "")
            if said or (self._caught_up and self._deltas):
                assert said == text, "what was said is what is recorded"

    def _receive_live(self, event: object) -> None:
        match event:
            case TextDelta() | ThinkingDelta():
                assert self._deltas
                assert self._caught_up or not self._expects_mark, "what is said comes after the mark"
                said = self._chunk_text.get((type(event), event.turn, event.round), "")
                assert event.at == len(said), "what is said comes without a gap, and nothing twice"
                self._chunk_text[type(event), event.turn, event.round] = said + event.text
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
                raise AssertionError("no story is that long")
            case _:
                raise AssertionError(event)
