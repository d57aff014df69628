"""What a home must say when its daemon has died, or had no disk, and the next one has run to the end."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from tests.crash.attempts import check_attempts
from tests.crash.effects import check_calls
from tests.crash.notes import Notes
from tests.fakes.validators import complaints
from walrus_protocol.branches import CheckpointMade, Forked, WentBack
from walrus_protocol.content import Message, User, plain_text
from walrus_protocol.events import AssistantMessage, Done, Durable, Parent, Rewound, UserMessage, decode_row
from walrus_protocol.json import decode
from walrus_protocol.methods import TurnResult
from walrusd.agent.agent import Agent
from walrusd.agent.decide import decide
from walrusd.session.mend import OnRestart
from walrusd.session.session import Session
from walrusd.store.log import Filter, Log, Stored

TEXTS = {"hello", "work", "more", "hurry", "aside", "again"}


class Told(Struct):
    """All that the log of a session says."""

    rows: list[Stored]
    events: list[Durable]
    session: Session
    inherited: Sequence[Message] = ()

    def messages(self, upto: int) -> Sequence[Message]:
        """What its model sees after the event `upto`."""
        session = Session(self.session.id)
        for event in self.events[:upto]:
            session.apply(event)
        session.conversation.inherit(self.inherited)
        return session.history.messages


async def told_by(log: Log) -> dict[int, Told]:
    """Every session by its number. Raises AssertionError where what lies beside a log differs from what it says."""
    told: dict[int, Told] = {}
    for outline, queued in await log.outlines(Filter(include_closed=True)):
        rows = await log.events(outline.id, 0, 1000)
        events = [decode_row(row.body) for row in rows]
        session = Session(outline.id)
        for event in events:
            session.apply(event)
        assert (session.outline, queued) == (outline, 0)
        assert await log.draft(outline.id) is None
        told[outline.id] = Told(rows, events, session)
    for one in told.values():
        if parent := one.session.outline.parent:
            one.inherited = told[parent.session].messages(parent.seq)
    return dict(sorted(told.items()))


async def check(log: Log, folder: Path, on_restart: OnRestart) -> dict[int, Told]:
    """Raises AssertionError where a promise is broken."""
    told, notes = await told_by(log), Notes(folder)
    [created] = {decode(note.value, int) for note in notes.read("created")}
    assert [number for number, one in told.items() if not one.session.outline.parent] == [created]
    assert notes.read("wrong") == [], "what a model was asked is what every provider takes"
    _in_order(told)
    _answers(told)
    _all_is_there(told, notes)
    _branches(told, told[created], notes)
    _nothing_else_was_published(told, notes)
    check_calls([event for one in told.values() for event in one.events], folder / "trace")
    if on_restart == "continue":
        check_attempts({number: one.events for number, one in told.items()}, notes)
    return told


def _in_order(told: dict[int, Told]) -> None:
    offsets = [row.offset for one in told.values() for row in one.rows]
    assert len(set(offsets)) == len(offsets)
    for one in told.values():
        assert [row.seq for row in one.rows] == list(range(1, len(one.rows) + 1))
        assert all(first.offset < second.offset for first, second in pairwise(one.rows))
        assert decide(Agent(name="walrus"), one.session.outline) is None
        turns = [event.turn for event in one.events if isinstance(event, Done)]
        assert turns == list(range(1, one.session.outline.turns + 1)), "each turn ends, and ends once"
        following = User("whatever comes next")
        assert complaints([*one.messages(len(one.rows)), following]) == []


def _answers(told: dict[int, Told]) -> None:
    """What a turn gives as its answer is one that was not cut off."""
    for one in told.values():
        last: AssistantMessage | None = None
        for event in one.events:
            match event:
                case AssistantMessage():
                    last = event
                case Done(stop_reason="text_response"):
                    assert last is not None
                    assert (last.turn, last.finish, last.content) == (event.turn, "stop", event.text)
                case _:
                    pass


def _all_is_there(told: dict[int, Told], notes: Notes) -> None:
    heard = Counter(
        plain_text(event.content)
        for one in told.values()
        for event in one.events
        if isinstance(event, UserMessage) and event.kind != "resume"
    )
    assert heard == dict.fromkeys(TEXTS, 1), "each was accepted, and is there once"
    assert {note.about for note in notes.read("accepted")} == TEXTS
    for note in notes.read("result"):
        result = decode(note.value, TurnResult)
        turn = told[result.session].events[result.first_seq - 1 : result.last_seq]
        done = turn[-1]
        assert isinstance(done, Done)
        assert note.about in {plain_text(event.content) for event in turn if isinstance(event, UserMessage)}
        assert (result.turn, result.stop_reason, result.error, result.text) == (
            done.turn,
            done.stop_reason,
            done.error,
            done.text,
        )
    for note in notes.read("drafted"):
        kept = decode(note.value, str)
        assert any(
            plain_text(event.content).startswith(kept)
            for number, one in told.items()
            for event in one.events
            if isinstance(event, AssistantMessage) and f"{number}.{event.turn}.{event.round}" == note.about
        ), f"what was kept of a reply is in the log: {kept}"


def _branches(told: dict[int, Told], parent: Told, notes: Notes) -> None:
    [start] = [decode(note.value, CheckpointMade) for note in notes.read("checkpoint")]
    assert parent.session.checkpoints["start"].at == start.at
    [fork] = [decode(note.value, Forked) for note in notes.read("forked")]
    child, before = told[fork.session], parent.messages(fork.at)
    assert child.session.outline.parent == Parent(session=parent.session.id, seq=fork.at, messages=len(before))
    assert child.messages(len(child.rows))[: len(before)] == before, "a fork begins with its parent's history"
    [back] = [decode(note.value, WentBack) for note in notes.read("rewound")]
    assert isinstance(parent.events[back.last_seq - 1], Rewound)
    assert parent.messages(back.last_seq) == parent.messages(back.to)


def _nothing_else_was_published(told: dict[int, Told], notes: Notes) -> None:
    """Of what is durable the last of a life may not have been; what was, is in the log, in its order, and once."""
    log = {number: iter([row.body for row in one.rows]) for number, one in told.items()}
    for published in notes.published():
        assert any(bytes(published.event) == body for body in log[published.session])
