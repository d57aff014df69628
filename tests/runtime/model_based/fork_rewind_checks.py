"""Requests to fork, rewind, checkpoint and read a session, and checks of their answers and effects."""

from collections.abc import Sequence

from msgspec import Struct

from tests.runtime.model_based.archive import Archive
from tests.runtime.model_based.history_model import HistoryModel, resume_seq
from tests.runtime.model_based.operations import Fork, HistoryOperation, MakeCheckpoint, ReadHistory, Rewind
from tests.runtime.model_based.scripted_model import RecordedPrompt
from tests.runtime.model_based.store_contents import StoreContents
from walrus_protocol.content import Message
from walrus_protocol.events import (
    AnySessionEvent,
    CheckpointCreated,
    Done,
    Rewound,
    SessionClosed,
    SessionCreated,
    UserMessage,
)
from walrus_protocol.methods.fork_rewind import CheckpointResult, ForkResult, RewindResult
from walrus_protocol.problems import Problem
from walrusd.runtime.runtime import Runtime

UNAVAILABLE = {"shutting_down", "storage_full", "storage_failed", "session_not_found"}
"""Kinds of Problem that every request may be refused with."""
ALLOWED_PROBLEMS: dict[type[HistoryOperation], set[str]] = {
    Fork: UNAVAILABLE | {"offset_in_future"},
    Rewind: UNAVAILABLE | {"offset_in_future", "session_busy", "session_closed"},
    MakeCheckpoint: UNAVAILABLE | {"session_closed"},
    ReadHistory: UNAVAILABLE,
}
"""Kinds of Problem that each may be refused with. A running or closed session can be forked."""

HistoryAnswer = ForkResult | RewindResult | CheckpointResult | list[Message]


class HistoryRequest(Struct, kw_only=True):
    """One request. It has neither `answer` nor `problem_kind` if no result reached the client."""

    operation: HistoryOperation
    session: int
    at: int
    """The requested point; 0 means the end."""
    known_seq: int
    """The last known seq of the session when the request was sent."""
    was_expired: bool
    """Whether the session had expired when the request was sent."""
    answer: HistoryAnswer | None = None
    problem_kind: str | None = None


class HistoryRequests:
    """All such requests of a scenario."""

    def __init__(self) -> None:
        self._requests: list[HistoryRequest] = []

    async def send(
        self, runtime: Runtime, operation: HistoryOperation, session: int, known_seq: int, *, was_expired: bool
    ) -> HistoryRequest:
        point = operation.at if isinstance(operation, Fork | Rewind) else None
        at = 0 if point is None else 1 + point % (known_seq + 1)
        request = HistoryRequest(
            operation=operation, session=session, at=at, known_seq=known_seq, was_expired=was_expired
        )
        self._requests.append(request)
        try:
            request.answer = await _send(runtime, request)
        except Problem as problem:
            request.problem_kind = problem.kind
            if problem.kind not in ALLOWED_PROBLEMS[type(operation)]:
                raise
        return request

    def check(self, archive: Archive, histories: HistoryModel, prompts: Sequence[RecordedPrompt]) -> None:
        """Checks that everything promised is recorded once, and that every prompt is a history of its session."""
        for session, messages in prompts:
            assert messages in histories.after_each_event(session), (
                f"session {session} never had this history: {messages}"
            )
        for request in self._requests:
            _check(request, archive, histories)
        events = [event for log in archive.native_logs() for event in log]
        self._check_once(Fork, sum(isinstance(event, SessionCreated) and event.parent is not None for event in events))
        self._check_once(Rewind, sum(isinstance(event, Rewound) for event in events))
        self._check_once(MakeCheckpoint, sum(isinstance(event, CheckpointCreated) for event in events))

    def _check_once(self, kind: type[HistoryOperation], recorded: int) -> None:
        requests = [request for request in self._requests if isinstance(request.operation, kind)]
        promised = sum(request.answer is not None for request in requests)
        unanswered = sum(request.answer is None and request.problem_kind is None for request in requests)
        assert promised <= recorded <= promised + unanswered, (
            f"{kind.__name__}: {promised} promised, {recorded} recorded"
        )


async def _send(runtime: Runtime, request: HistoryRequest) -> HistoryAnswer:
    match request.operation:
        case Fork():
            return await runtime.fork_rewind.fork(request.session, request.at or None)
        case Rewind():
            return await runtime.fork_rewind.rewind(request.session, request.at)
        case MakeCheckpoint(name=name):
            return await runtime.fork_rewind.checkpoint(request.session, name)
        case ReadHistory():
            return [*await runtime.fork_rewind.history(request.session)]


def _check(request: HistoryRequest, archive: Archive, histories: HistoryModel) -> None:
    log = archive.logs[request.session]
    assert request.problem_kind != "session_not_found" or request.session in archive.expired
    match request.answer:
        case _ if request.was_expired:
            assert request.answer is None
        case None:
            assert request.problem_kind != "offset_in_future" or request.at > request.known_seq
        case ForkResult(session=child, at=at):
            created = archive.logs[child][0]
            assert isinstance(created, SessionCreated)
            assert created.parent is not None
            assert (created.parent.session, created.parent.seq) == (request.session, at)
            _check_point(request, at, log)
        case RewindResult(last_seq=last_seq, to=to):
            rewound = log[last_seq - 1]
            assert isinstance(rewound, Rewound)
            assert rewound.to == to
            _check_point(request, to, log)
        case CheckpointResult(at=at):
            assert isinstance(request.operation, MakeCheckpoint)
            assert (request.operation.name, at) in {
                (event.name, event.at) for event in log if isinstance(event, CheckpointCreated)
            }
            _check_point(request, at, log)
        case list(messages):
            assert messages in histories.after_each_event(request.session)[request.known_seq :]


def _check_point(request: HistoryRequest, at: int, log: Sequence[AnySessionEvent]) -> None:
    assert at == resume_seq(log, request.at or at), "the last point with no open call"
    assert at >= resume_seq(log, request.at or request.known_seq)


def expected_outcome(
    request: HistoryRequest, contents: StoreContents, histories: HistoryModel
) -> str | int | list[Message]:
    """Returns the only right result while nothing else happens: a problem kind, a point or the messages."""
    if request.session not in contents.rows:
        return "session_not_found"
    log, queued = contents.events(request.session), [entry.kind for entry in contents.inboxes[request.session]]
    closed = any(isinstance(event, SessionClosed) for event in log)
    at = request.at or len(log)
    match request.operation:
        case ReadHistory():
            return histories.after_each_event(request.session)[-1]
        case Rewind() | MakeCheckpoint() if closed:
            return "session_closed"
        case Rewind() if "close" in queued:
            return "session_closed"
        case Rewind() if queued or _is_running(log):
            return "session_busy"
        case Fork() | Rewind() if at > len(log):
            return "offset_in_future"
        case Fork() | Rewind() | MakeCheckpoint():
            return resume_seq(log, at)


def _is_running(log: Sequence[AnySessionEvent]) -> bool:
    turns = [event for event in log if isinstance(event, UserMessage | Done)]
    return turns != [] and isinstance(turns[-1], UserMessage)


def actual_outcome(request: HistoryRequest) -> str | int | list[Message]:
    """Returns the result of the request, in the form of `expected_outcome`."""
    match request.answer:
        case None:
            assert request.problem_kind is not None, "it was neither answered nor refused"
            return request.problem_kind
        case ForkResult(at=point) | RewindResult(to=point) | CheckpointResult(at=point):
            return point
        case list(messages):
            return messages
