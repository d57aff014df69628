"""What a home must say when its daemon has died, or had no disk, and the next one has run to the end."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from tests.crash.attempts import check_attempts
from tests.crash.effect_log import check_calls
from tests.crash.side_records import SideRecords
from tests.fakes.validators import violations
from walrus_protocol.content import Message, User, plain_text
from walrus_protocol.events import AnySessionEvent, AssistantMessage, Done, Parent, Rewound, UserMessage, decode_row
from walrus_protocol.json import decode
from walrus_protocol.methods import TurnResult
from walrus_protocol.methods.fork_rewind import CheckpointResult, ForkResult, RewindResult
from walrusd.agent.agent import Agent
from walrusd.agent.decide import decide
from walrusd.session.recovery import OnRestart
from walrusd.session.session import Session
from walrusd.store.contract import EventRow, Log, SessionFilter

TEXTS = {"hello", "work", "more", "hurry", "aside", "again"}


class SessionLog(Struct):
    """All that the log of a session says."""

    rows: list[EventRow]
    events: list[AnySessionEvent]
    session: Session
    inherited: Sequence[Message] = ()

    def messages(self, upto: int) -> Sequence[Message]:
        """What its model sees after the event `upto`."""
        session = Session(self.session.id)
        for event in self.events[:upto]:
            session.apply(event)
        session.conversation.inherit(self.inherited)
        return session.history.messages


async def read_session_logs(log: Log) -> dict[int, SessionLog]:
    """Every session by its number. Raises AssertionError where what lies beside a log differs from what it says."""
    told: dict[int, SessionLog] = {}
    for outline, queued in await log.list_sessions(SessionFilter(include_closed=True)):
        rows = await log.events(outline.id, 0, 1000)
        events = [decode_row(row.body) for row in rows]
        session = Session(outline.id)
        for event in events:
            session.apply(event)
        assert (session.state, queued) == (outline, 0)
        assert await log.draft(outline.id) is None
        told[outline.id] = SessionLog(rows, events, session)
    for one in told.values():
        if parent := one.session.state.parent:
            one.inherited = told[parent.session].messages(parent.seq)
    return dict(sorted(told.items()))


async def check_home(log: Log, folder: Path, on_restart: OnRestart) -> dict[int, SessionLog]:
    """Raises AssertionError where a promise is broken."""
    told, notes = await read_session_logs(log), SideRecords(folder)
    [created] = {decode(note.value, int) for note in notes.read("created")}
    assert [number for number, one in told.items() if not one.session.state.parent] == [created]
    assert notes.read("wrong") == [], "what a model was asked is what every provider takes"
    _check_order(told)
    _check_answers(told)
    _check_complete(told, notes)
    _check_fork_and_rewind(told, told[created], notes)
    _check_published(told, notes)
    check_calls([event for one in told.values() for event in one.events], folder / "trace")
    if on_restart == "continue":
        check_attempts({number: one.events for number, one in told.items()}, notes)
    return told


def _check_order(logs: dict[int, SessionLog]) -> None:
    offsets = [row.offset for one in logs.values() for row in one.rows]
    assert len(set(offsets)) == len(offsets)
    for one in logs.values():
        assert [row.seq for row in one.rows] == list(range(1, len(one.rows) + 1))
        assert all(first.offset < second.offset for first, second in pairwise(one.rows))
        assert decide(Agent(name="walrus"), one.session.state) is None
        turns = [event.turn for event in one.events if isinstance(event, Done)]
        assert turns == list(range(1, one.session.state.turns + 1)), "each turn ends, and ends once"
        following = User("whatever comes next")
        assert violations([*one.messages(len(one.rows)), following]) == []


def _check_answers(logs: dict[int, SessionLog]) -> None:
    """What a turn gives as its answer is one that was not cut off."""
    for one in logs.values():
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


def _check_complete(logs: dict[int, SessionLog], records: SideRecords) -> None:
    heard = Counter(
        plain_text(event.content)
        for one in logs.values()
        for event in one.events
        if isinstance(event, UserMessage) and event.kind != "resume"
    )
    assert heard == dict.fromkeys(TEXTS, 1), "each was accepted, and is there once"
    assert {note.subject for note in records.read("accepted")} == TEXTS
    for note in records.read("result"):
        result = decode(note.value, TurnResult)
        turn = logs[result.session].events[result.first_seq - 1 : result.last_seq]
        done = turn[-1]
        assert isinstance(done, Done)
        assert note.subject in {plain_text(event.content) for event in turn if isinstance(event, UserMessage)}
        assert (result.turn, result.stop_reason, result.error, result.text) == (
            done.turn,
            done.stop_reason,
            done.error,
            done.text,
        )
    for note in records.read("drafted"):
        kept = decode(note.value, str)
        assert any(
            plain_text(event.content).startswith(kept)
            for number, one in logs.items()
            for event in one.events
            if isinstance(event, AssistantMessage) and f"{number}.{event.turn}.{event.round}" == note.subject
        ), f"what was kept of a reply is in the log: {kept}"


def _check_fork_and_rewind(logs: dict[int, SessionLog], parent: SessionLog, records: SideRecords) -> None:
    [start] = [decode(note.value, CheckpointResult) for note in records.read("checkpoint")]
    assert parent.session.checkpoints["start"].at == start.at
    [fork] = [decode(note.value, ForkResult) for note in records.read("forked")]
    child, before = logs[fork.session], parent.messages(fork.at)
    assert child.session.state.parent == Parent(session=parent.session.id, seq=fork.at, messages=len(before))
    assert child.messages(len(child.rows))[: len(before)] == before, "a fork begins with its parent's history"
    [back] = [decode(note.value, RewindResult) for note in records.read("rewound")]
    assert isinstance(parent.events[back.last_seq - 1], Rewound)
    assert parent.messages(back.last_seq) == parent.messages(back.to)


def _check_published(logs: dict[int, SessionLog], records: SideRecords) -> None:
    """Of what is durable the last of a life may not have been; what was, is in the log, in its order, and once."""
    log = {number: iter([row.body for row in one.rows]) for number, one in logs.items()}
    for published in records.read_published():
        assert any(bytes(published.event) == body for body in log[published.session])
