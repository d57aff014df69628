"""A reader of one session that believes nothing: every fact once and in order, what is said in its place."""

from collections.abc import Sequence

from walrus_protocol.content import plain_text
from walrus_protocol.events import (
    AssistantMessage,
    Lagged,
    Live,
    MessageQueued,
    StateChanged,
    TextDelta,
    ThinkingDelta,
    decode,
)
from walrusd.runtime.bus import Fact, Item, Passing
from walrusd.session.session import Session
from walrusd.store.log import Stored


class Watcher:
    """`marks`: its reader is told when it has caught up. One that reads from the beginning knows the state as well."""

    def __init__(self, session: int, since: int, *, deltas: bool = True, marks: bool = False) -> None:
        self.looks = False
        """Somebody reads for it just now."""
        self.facts: list[Stored] = []
        """What it was told, as it was told."""
        self.session = session
        self._since = since
        self._session = Session(session)
        self._folds = since == 0
        self._last_seq = since
        self._offset = 0
        self._deltas = deltas
        self._marks = marks
        self._marked = False
        self._said: dict[tuple[type[Live], int | None, int], str] = {}
        """What was said of a round, by kind, turn and round, until its message came."""

    def check(self, rows: Sequence[Stored]) -> None:
        """What it was told is what the log says from where it began."""
        assert self.facts == rows[self._since : self._since + len(self.facts)]

    def see(self, item: Item) -> None:
        match item:
            case Fact():
                self._fact(item)
            case Passing(event=event):
                assert decode(item.wire) == event
                self._passing(event)

    def _fact(self, fact: Fact) -> None:
        assert fact.seq == self._last_seq + 1, "facts come once, and none is left out"
        assert fact.offset > self._offset, "offsets rise"
        self._last_seq, self._offset = fact.seq, fact.offset
        self.facts.append(Stored(fact.seq, fact.offset, fact.body))
        sent = decode(fact.wire)
        assert (sent.session, sent.seq, sent.offset) == (self._session.id, fact.seq, fact.offset)
        if self._folds:
            self._session.apply(fact.event)
        if isinstance(fact.event, AssistantMessage):
            self._message(fact.event)

    def _message(self, message: AssistantMessage) -> None:
        for kind, text in ((TextDelta, plain_text(message.content)), (ThinkingDelta, message.thinking)):
            said = self._said.pop((kind, message.turn, message.round), "")
            if said or (self._marked and self._deltas):
                assert said == text, "what was said is what is recorded"

    def _passing(self, event: object) -> None:
        match event:
            case TextDelta() | ThinkingDelta():
                assert self._deltas
                assert self._marked or not self._marks, "what is said comes after the mark"
                said = self._said.get((type(event), event.turn, event.round), "")
                assert event.at == len(said), "what is said comes without a gap, and nothing twice"
                self._said[type(event), event.turn, event.round] = said + event.text
                if self._folds:
                    turn = self._session.turn
                    assert turn is not None
                    assert (turn.number, turn.rounds + 1, turn.heard) == (event.turn, event.round, True)
            case StateChanged(state=state):
                self._marked = True
                if self._folds:
                    assert state == self._session.outline.state
            case MessageQueued():
                pass
            case Lagged():
                raise AssertionError("no story is that long")
            case _:
                raise AssertionError(event)
