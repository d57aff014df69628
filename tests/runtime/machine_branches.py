"""Forks, rewinds, checkpoints and reads: what they answer, and what is there afterwards."""

from collections.abc import Sequence

from msgspec import Struct

from tests.runtime.machine_archive import Archive
from tests.runtime.machine_facts import Facts
from tests.runtime.machine_orders import Branch, Checkpoint, Fork, Read, Rewind
from tests.runtime.machine_past import Pasts, footing
from tests.runtime.machine_puppet import Shown
from walrus_protocol.branches import CheckpointMade, Forked, WentBack
from walrus_protocol.content import Message
from walrus_protocol.events import CheckpointCreated, Done, Durable, Rewound, SessionClosed, SessionCreated, UserMessage
from walrus_protocol.problems import Problem
from walrusd.runtime.runtime import Runtime

SHUT = {"shutting_down", "storage_full", "storage_failed", "session_not_found"}
REFUSALS: dict[type[Branch], set[str]] = {
    Fork: SHUT | {"offset_in_future"},
    Rewind: SHUT | {"offset_in_future", "session_busy", "session_closed"},
    Checkpoint: SHUT | {"session_closed"},
    Read: SHUT,
}
"""What each may be refused with: no turn and no close keeps a session from being forked."""

Answer = Forked | WentBack | CheckpointMade | list[Message]


class Asked(Struct, kw_only=True):
    """One request. It has neither answer nor refusal where nobody was told."""

    order: Branch
    session: int
    at: int
    """The point asked for; 0: the end, wherever that is by then."""
    known_seq: int
    """The session had come that far when it was asked."""
    was_gone: bool
    """It had expired by then."""
    answer: Answer | None = None
    refused: str | None = None


class Branches:
    """All that was asked for in a story."""

    def __init__(self) -> None:
        self._asked: list[Asked] = []

    async def ask(self, runtime: Runtime, order: Branch, session: int, known_seq: int, *, was_gone: bool) -> Asked:
        point = order.at if isinstance(order, Fork | Rewind) else None
        at = 0 if point is None else 1 + point % (known_seq + 1)
        asked = Asked(order=order, session=session, at=at, known_seq=known_seq, was_gone=was_gone)
        self._asked.append(asked)
        try:
            asked.answer = await _answer(runtime, asked)
        except Problem as problem:
            asked.refused = problem.kind
            if problem.kind not in REFUSALS[type(order)]:
                raise
        return asked

    def check(self, archive: Archive, pasts: Pasts, shown: Sequence[Shown]) -> None:
        """That all that was promised is there, once, and that models were `shown` what there was."""
        for session, messages in shown:
            assert messages in pasts.of(session), f"session {session} never was like that: {messages}"
        for asked in self._asked:
            _check(asked, archive, pasts)
        events = [event for log in archive.native() for event in log]
        self._check_once(Fork, sum(isinstance(event, SessionCreated) and event.parent is not None for event in events))
        self._check_once(Rewind, sum(isinstance(event, Rewound) for event in events))
        self._check_once(Checkpoint, sum(isinstance(event, CheckpointCreated) for event in events))

    def _check_once(self, kind: type[Branch], there: int) -> None:
        asked = [each for each in self._asked if isinstance(each.order, kind)]
        promised = sum(each.answer is not None for each in asked)
        unsure = sum(each.answer is None and each.refused is None for each in asked)
        assert promised <= there <= promised + unsure, f"{kind.__name__}: {promised} promised, {there} there"


async def _answer(runtime: Runtime, asked: Asked) -> Answer:
    match asked.order:
        case Fork():
            return await runtime.branches.fork(asked.session, asked.at or None)
        case Rewind():
            return await runtime.branches.rewind(asked.session, asked.at)
        case Checkpoint(name=name):
            return await runtime.branches.checkpoint(asked.session, name)
        case Read():
            return [*await runtime.branches.history(asked.session)]


def _check(asked: Asked, archive: Archive, pasts: Pasts) -> None:
    log = archive.logs[asked.session]
    assert asked.refused != "session_not_found" or asked.session in archive.expired
    match asked.answer:
        case _ if asked.was_gone:
            assert asked.answer is None
        case None:
            assert asked.refused != "offset_in_future" or asked.at > asked.known_seq
        case Forked(session=child, at=at):
            created = archive.logs[child][0]
            assert isinstance(created, SessionCreated)
            assert created.parent is not None
            assert (created.parent.session, created.parent.seq) == (asked.session, at)
            _check_point(asked, at, log)
        case WentBack(last_seq=last_seq, to=to):
            rewound = log[last_seq - 1]
            assert isinstance(rewound, Rewound)
            assert rewound.to == to
            _check_point(asked, to, log)
        case CheckpointMade(at=at):
            assert isinstance(asked.order, Checkpoint)
            assert (asked.order.name, at) in {
                (event.name, event.at) for event in log if isinstance(event, CheckpointCreated)
            }
            _check_point(asked, at, log)
        case list(messages):
            assert messages in pasts.of(asked.session)[asked.known_seq :]


def _check_point(asked: Asked, at: int, log: Sequence[Durable]) -> None:
    assert at == footing(log, asked.at or at), "a point with no open call, and the last such one"
    assert at >= footing(log, asked.at or asked.known_seq)


def foreseen(asked: Asked, facts: Facts, pasts: Pasts) -> str | int | list[Message]:
    """How it has to be answered while nothing else happens: the kind of the refusal, the point, or the messages."""
    if asked.session not in facts.rows:
        return "session_not_found"
    log, queued = facts.events(asked.session), [entry.kind for entry in facts.inboxes[asked.session]]
    closed = any(isinstance(event, SessionClosed) for event in log)
    at = asked.at or len(log)
    match asked.order:
        case Read():
            return pasts.of(asked.session)[-1]
        case Rewind() | Checkpoint() if closed:
            return "session_closed"
        case Rewind() if "close" in queued:
            return "session_closed"
        case Rewind() if queued or _is_running(log):
            return "session_busy"
        case Fork() | Rewind() if at > len(log):
            return "offset_in_future"
        case Fork() | Rewind() | Checkpoint():
            return footing(log, at)


def _is_running(log: Sequence[Durable]) -> bool:
    turns = [event for event in log if isinstance(event, UserMessage | Done)]
    return turns != [] and isinstance(turns[-1], UserMessage)


def outcome(asked: Asked) -> str | int | list[Message]:
    """What came of it, in the same words."""
    match asked.answer:
        case None:
            assert asked.refused is not None, "it was neither answered nor refused"
            return asked.refused
        case Forked(at=point) | WentBack(to=point) | CheckpointMade(at=point):
            return point
        case list(messages):
            return messages
