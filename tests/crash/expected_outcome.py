"""Checks the home after a daemon was killed, or its disk failed, and the next one ran to the end."""

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
from walrusd.store.contract import Log
from walrusd.store.tables.draft import read_draft
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.session import SessionFilter

TEXTS = {"hello", "work", "more", "hurry", "aside", "again"}


class SessionLog(Struct):
    """All events of one session, decoded and applied, with the messages it inherits from its parent."""

    rows: list[EventRow]
    events: list[AnySessionEvent]
    session: Session
    inherited: Sequence[Message] = ()

    def messages(self, upto: int) -> Sequence[Message]:
        """Returns the messages that the model sees after the event `upto`."""
        session = Session(self.session.id)
        for event in self.events[:upto]:
            session.apply(event)
        session.conversation.inherit(self.inherited)
        return session.history.messages


async def read_session_logs(log: Log) -> dict[int, SessionLog]:
    """Returns every session log by session id.

    Raises AssertionError if a stored session state differs from the events, or a draft or queued message is left.
    """
    logs: dict[int, SessionLog] = {}
    for state, queued in await log.list_sessions(SessionFilter(include_closed=True)):
        rows = await log.events(state.id, 0, 1000)
        events = [decode_row(row.body) for row in rows]
        session = Session(state.id)
        for event in events:
            session.apply(event)
        assert (session.state, queued) == (state, 0)
        assert await log.read(read_draft, state.id) is None
        logs[state.id] = SessionLog(rows, events, session)
    for session_log in logs.values():
        if parent := session_log.session.state.parent:
            session_log.inherited = logs[parent.session].messages(parent.seq)
    return dict(sorted(logs.items()))


async def check_home(log: Log, folder: Path, on_restart: OnRestart) -> dict[int, SessionLog]:
    """Returns the session logs. Raises AssertionError if a promise of the crash matrix is broken."""
    logs, records = await read_session_logs(log), SideRecords(folder)
    [created] = {decode(record.value, int) for record in records.read("created")}
    assert [number for number, session_log in logs.items() if not session_log.session.state.parent] == [created]
    assert records.read("violation") == [], "every provider accepts each request to the model"
    _check_order(logs)
    _check_answers(logs)
    _check_complete(logs, records)
    _check_fork_and_rewind(logs, logs[created], records)
    _check_published(logs, records)
    check_calls([event for session_log in logs.values() for event in session_log.events], folder / "trace")
    if on_restart == "continue":
        check_attempts({number: session_log.events for number, session_log in logs.items()}, records)
    return logs


def _check_order(logs: dict[int, SessionLog]) -> None:
    offsets = [row.offset for session_log in logs.values() for row in session_log.rows]
    assert len(set(offsets)) == len(offsets)
    for session_log in logs.values():
        assert [row.seq for row in session_log.rows] == list(range(1, len(session_log.rows) + 1))
        assert all(first.offset < second.offset for first, second in pairwise(session_log.rows))
        assert decide(Agent(name="walrus"), session_log.session.state) is None
        turns = [event.turn for event in session_log.events if isinstance(event, Done)]
        assert turns == list(range(1, session_log.session.state.turns + 1)), "each turn ends exactly once"
        following = User("the next message")
        assert violations([*session_log.messages(len(session_log.rows)), following]) == []


def _check_answers(logs: dict[int, SessionLog]) -> None:
    """Checks that the final text of a turn is its last reply, and that this was not interrupted."""
    for session_log in logs.values():
        last: AssistantMessage | None = None
        for event in session_log.events:
            match event:
                case AssistantMessage():
                    last = event
                case Done(stop_reason="text_response"):
                    assert last is not None
                    assert (last.turn, last.finish, last.content) == (event.turn, "stop", event.text)
                case _:
                    pass


def _check_complete(logs: dict[int, SessionLog], records: SideRecords) -> None:
    accepted = Counter(
        plain_text(event.content)
        for session_log in logs.values()
        for event in session_log.events
        if isinstance(event, UserMessage) and event.kind != "resume"
    )
    assert accepted == dict.fromkeys(TEXTS, 1), "each message is in the log exactly once"
    assert {record.subject for record in records.read("accepted")} == TEXTS
    for record in records.read("result"):
        result = decode(record.value, TurnResult)
        turn = logs[result.session].events[result.first_seq - 1 : result.last_seq]
        done = turn[-1]
        assert isinstance(done, Done)
        assert record.subject in {plain_text(event.content) for event in turn if isinstance(event, UserMessage)}
        assert (result.turn, result.stop_reason, result.error, result.text) == (
            done.turn,
            done.stop_reason,
            done.error,
            done.text,
        )
    for record in records.read("draft"):
        draft_text = decode(record.value, str)
        assert any(
            plain_text(event.content).startswith(draft_text)
            for number, session_log in logs.items()
            for event in session_log.events
            if isinstance(event, AssistantMessage) and f"{number}.{event.turn}.{event.round}" == record.subject
        ), f"the text of a durable draft is in the log: {draft_text}"


def _check_fork_and_rewind(logs: dict[int, SessionLog], parent: SessionLog, records: SideRecords) -> None:
    [start] = [decode(record.value, CheckpointResult) for record in records.read("checkpoint")]
    assert parent.session.checkpoints["start"].at == start.at
    [fork] = [decode(record.value, ForkResult) for record in records.read("forked")]
    child, before = logs[fork.session], parent.messages(fork.at)
    assert child.session.state.parent == Parent(session=parent.session.id, seq=fork.at, messages=len(before))
    assert child.messages(len(child.rows))[: len(before)] == before, "a fork begins with its parent's history"
    [back] = [decode(record.value, RewindResult) for record in records.read("rewound")]
    assert isinstance(parent.events[back.last_seq - 1], Rewound)
    assert parent.messages(back.last_seq) == parent.messages(back.to)


def _check_published(logs: dict[int, SessionLog], records: SideRecords) -> None:
    """Checks that each published event is in the log, once and in order.

    The last durable events before a kill may be missing from the published ones.
    """
    bodies = {number: iter([row.body for row in session_log.rows]) for number, session_log in logs.items()}
    for published in records.read_published():
        assert any(bytes(published.event) == body for body in bodies[published.session])
