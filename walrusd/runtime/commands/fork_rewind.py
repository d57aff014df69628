"""Fork, rewind and checkpoint: continue a conversation from an earlier point without copying its log."""

from collections.abc import Callable, Sequence
from unicodedata import category

from walrus_protocol.content import Message
from walrus_protocol.events import CheckpointCreated, Parent, Rewound, SessionCreated
from walrus_protocol.methods.fork_rewind import CheckpointResult, ForkResult, RewindResult
from walrus_protocol.problems import Problem
from walrusd.runtime.errors import decode_event, session_not_found, unreadable_log
from walrusd.runtime.recording.recorder import PreconditionFailed, TransactionExtras
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.runtime.streams.fanout import PAGE_ROWS
from walrusd.runtime.turns.inbox import RETRY_AFTER_MS
from walrusd.runtime.turns.worker_pool import WorkerPool
from walrusd.session.message_tree import ResumePoint, ResumePointSearch
from walrusd.session.session import Checkpoint
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log
from walrusd.store.tables.event import EventRow

LOOKBACK_EVENTS = 16
"""Number of events read first to find a resume point: the last round or two.

Each further read is four times larger.
"""


class ForkRewindCommands:
    """The commands fork, rewind and checkpoint. Their cost does not grow with the log.

    A fork reads the log of its parent only when its own history is first needed.
    """

    def __init__(
        self, log: Log, session_cache: SessionCache, worker_pool: WorkerPool, check_not_stopping: Callable[[], None]
    ) -> None:
        self._log = log
        self._session_cache = session_cache
        self._worker_pool = worker_pool
        self._check_not_stopping = check_not_stopping

    async def fork(self, session: int, at: int | None = None, *, created_by: str = "") -> ForkResult:
        """Creates a session of the same agent that continues from `at`, or from the end if that is None.

        The parent may be closed.

        Raises Problem (session_not_found, offset_in_future, shutting_down, storage_full, storage_failed).
        """
        self._check_not_stopping()
        async with self._session_cache.pin(session):
            state = await self._log.session_state(session)
            if state is None:
                raise session_not_found(session)
            point = await self._find_resume_point(state, state.last_seq if at is None else at)
            created = SessionCreated(
                agent=state.agent,
                created_by=created_by,
                title=state.title,
                parent=Parent(session=session, seq=point.seq, messages=point.messages),
            )
            child = await self._session_cache.create(created)
        return ForkResult(session=child, at=point.seq)

    async def rewind(self, session: int, to: int) -> RewindResult:
        """Continues the session from `to`; a point before an earlier rewind restores what that one removed.

        Raises Problem (session_not_found, session_closed, session_busy, offset_in_future, storage_full,
        storage_failed).
        """
        async with self._session_cache.lease(session) as live:
            if live.is_closing:
                raise _session_closed(session)
            if live.is_busy:
                raise Problem(
                    "session_busy",
                    f"session {session} has a turn under way, or queued messages",
                    "Wait for them, interrupt the turn, or fork the session.",
                    retry_after_ms=RETRY_AFTER_MS,
                )
            live.admission.begin_opening()
            try:
                point = await self._find_resume_point(live.session.state, to)
                seqs: list[int] = []
                await live.recorder.record(
                    Rewound(to=point.seq, messages=point.messages),
                    extras=TransactionExtras(on_applied=lambda: seqs.append(live.session.state.last_seq)),
                )
            finally:
                self._worker_pool.end_opening(live)
        return RewindResult(last_seq=seqs[0], to=point.seq)

    async def checkpoint(self, session: int, name: str) -> CheckpointResult:
        """Names the last point of the session that has no open call, which is its end if it is idle.

        Raises Problem (session_not_found, session_closed, invalid_params, storage_full, storage_failed).
        """
        check_checkpoint_name(name)
        async with self._session_cache.lease(session) as live:
            state = live.session.state
            point = await self._find_resume_point(state, state.last_seq)
            try:
                await live.recorder.record(
                    CheckpointCreated(name=name, at=point.seq),
                    extras=TransactionExtras(precondition=lambda now: now.state != "closed"),
                )
            except PreconditionFailed:
                raise _session_closed(session) from None
        return CheckpointResult(at=point.seq)

    async def checkpoints(self, session: int) -> Sequence[Checkpoint]:
        """Returns the checkpoints in order of creation. Raises Problem (session_not_found, storage_failed)."""
        async with self._session_cache.lease(session) as live:
            return [*live.session.checkpoints.values()]

    async def history(self, session: int) -> Sequence[Message]:
        """Returns the messages as the model sees them. Raises Problem (session_not_found, storage_failed)."""
        async with self._session_cache.lease(session) as live:
            return (await live.history()).messages

    async def _find_resume_point(self, session_state: SessionState, at: int) -> ResumePoint:
        """Finds the last point up to `at` with no open call.

        Raises Problem offset_in_future, and StorageFailed.
        """
        if at > session_state.last_seq:
            raise Problem(
                "offset_in_future",
                f"session {session_state.id} ends at seq {session_state.last_seq}, before {at}",
                f"`walrusctl session attach {session_state.id} --no-follow --json` shows its events with their seqs.",
            )
        turn = session_state.turn
        if at == session_state.last_seq and not (turn and (turn.calls or turn.executing)):
            return ResumePoint(at, session_state.messages)
        search, upto, lookback = ResumePointSearch(at), at, LOOKBACK_EVENTS
        while upto:
            since = max(0, upto - lookback)
            for row in reversed(await self._read_rows(session_state.id, since, upto)):
                if found := search.visit(row.seq, decode_event(session_state.id, row)):
                    return found
            upto, lookback = since, min(4 * lookback, PAGE_ROWS)
        raise unreadable_log(session_state.id, 1, "it does not begin with its creation")

    async def _read_rows(self, session: int, since: int, upto: int) -> list[EventRow]:
        rows: list[EventRow] = []
        while since < upto:
            page = await self._log.events(session, since, upto - since)
            if not page:
                raise unreadable_log(session, since + 1, "it ends there")
            rows += page
            since = page[-1].seq
        return rows


def check_checkpoint_name(name: str) -> None:
    """Raises Problem for a name that looks like a seq, or that a list would display in another form."""
    if name.isascii() and name.isdigit():
        raise Problem("invalid_params", f"name: {name[:40]!r} is a number", "Numbers are seqs: choose another name.")
    if name != " ".join(name.split()) or any(category(character) == "Cc" for character in name):
        raise Problem(
            "invalid_params",
            f"name: {name[:40]!r} has misplaced white space or control characters",
            "Separate words by single spaces; use no other white space and no control characters.",
        )


def _session_closed(session: int) -> Problem:
    return Problem(
        "session_closed",
        f"session {session} is closed",
        f"It can be read and forked: `walrusctl session fork {session}`.",
    )
