"""Fork, rewind and checkpoint: other ways on from an earlier point. Nothing of a log is copied, and nothing erased."""

from collections.abc import Callable, Sequence
from unicodedata import category

from walrus_protocol.branches import CheckpointMade, Forked, WentBack
from walrus_protocol.content import Message
from walrus_protocol.events import CheckpointCreated, Parent, Rewound, SessionCreated
from walrus_protocol.problems import Problem
from walrusd.runtime.bus import PAGE
from walrusd.runtime.inbox import RETRY_AFTER_MS
from walrusd.runtime.record import Beside, Overtaken
from walrusd.runtime.sessions import Sessions
from walrusd.runtime.told import readable, session_not_found, storage_told, unreadable
from walrusd.runtime.workers import Workers
from walrusd.session.branch import Descent, Footing
from walrusd.session.outline import Outline
from walrusd.session.session import Checkpoint
from walrusd.store.log import Log, Stored

LOOK = 16
"""Events that are looked at first: the last round or two. Where they do not tell, four times as many before them."""


class Branching:
    """What it takes does not grow with the log: a fork reads its parent's when its own history is first asked for."""

    def __init__(self, log: Log, sessions: Sessions, workers: Workers, check_running: Callable[[], None]) -> None:
        self._log = log
        self._sessions = sessions
        self._workers = workers
        self._check_running = check_running

    async def fork(self, session: int, at: int | None = None, *, created_by: str = "") -> Forked:
        """A new session of the same agent that goes on from `at`, without it from the end; the parent may be closed.

        Raises Problem (session_not_found, offset_in_future, shutting_down, storage_full, storage_failed).
        """
        self._check_running()
        with storage_told(session=session):
            async with self._sessions.departures.needed(session):
                outline = await self._log.outline(session)
                if outline is None:
                    raise session_not_found(session)
                point = await self._footing(outline, outline.last_seq if at is None else at)
                created = SessionCreated(
                    agent=outline.agent,
                    created_by=created_by,
                    title=outline.title,
                    parent=Parent(session=session, seq=point.seq, messages=point.messages),
                )
                child = await self._sessions.create(created)
        return Forked(session=child.id, at=point.seq)

    async def rewind(self, session: int, to: int) -> WentBack:
        """Have the session go on from `to`; a point before an earlier rewind brings back what that took away.

        Raises Problem (session_not_found, session_closed, session_busy, offset_in_future, storage_full,
        storage_failed).
        """
        with storage_told(session=session):
            live = await self._sessions.get(session)
            if live.closing:
                raise _closed(session)
            if live.busy:
                raise Problem(
                    "session_busy",
                    f"session {session} has a turn under way, or messages that wait",
                    "Wait for them, or interrupt; a fork goes on beside it.",
                    retry_after_ms=RETRY_AFTER_MS,
                )
            live.claimed = True
            try:
                point = await self._footing(live.session.outline, to)
                seqs: list[int] = []
                await live.recorder.record(
                    Rewound(to=point.seq, messages=point.messages),
                    beside=Beside(applied=lambda: seqs.append(live.session.outline.last_seq)),
                )
            finally:
                live.claimed = False
                self._workers.rouse(live)
        return WentBack(last_seq=seqs[0], to=point.seq)

    async def checkpoint(self, session: int, name: str) -> CheckpointMade:
        """Name the point where the session stands; of a running one, the last that has no open call.

        Raises Problem (session_not_found, session_closed, invalid_params, storage_full, storage_failed).
        """
        check_name(name)
        with storage_told(session=session):
            live = await self._sessions.get(session)
            outline = live.session.outline
            point = await self._footing(outline, outline.last_seq)
            try:
                await live.recorder.record(
                    CheckpointCreated(name=name, at=point.seq), beside=Beside(only_if=lambda now: now.state != "closed")
                )
            except Overtaken:
                raise _closed(session) from None
        return CheckpointMade(at=point.seq)

    async def checkpoints(self, session: int) -> Sequence[Checkpoint]:
        """In the order in which they were made. Raises Problem (session_not_found, storage_failed)."""
        with storage_told(session=session):
            return [*(await self._sessions.get(session)).session.checkpoints.values()]

    async def history(self, session: int) -> Sequence[Message]:
        """The messages as the model sees them. Raises Problem (session_not_found, storage_failed)."""
        with storage_told(session=session):
            return (await self._sessions.history(session)).messages

    async def _footing(self, outline: Outline, at: int) -> Footing:
        """The last point up to `at` with no open call. Raises Problem offset_in_future, and StorageFailed."""
        if at > outline.last_seq:
            raise Problem(
                "offset_in_future",
                f"session {outline.id} ends at seq {outline.last_seq}, before {at}",
                f"`walrusctl session attach {outline.id} --no-follow --json` shows its events with their seqs.",
            )
        turn = outline.turn
        if at == outline.last_seq and not (turn and (turn.calls or turn.executing)):
            return Footing(at, outline.messages)
        descent, upto, look = Descent(at), at, LOOK
        while upto:
            since = max(0, upto - look)
            for row in reversed(await self._rows(outline.id, since, upto)):
                if found := descent.see(row.seq, readable(outline.id, row)):
                    return found
            upto, look = since, min(4 * look, PAGE)
        raise unreadable(outline.id, 1, "it does not begin with its creation")

    async def _rows(self, session: int, since: int, upto: int) -> list[Stored]:
        rows: list[Stored] = []
        while since < upto:
            page = await self._log.events(session, since, upto - since)
            if not page:
                raise unreadable(session, since + 1, "it ends there")
            rows += page
            since = page[-1].seq
        return rows


def check_name(name: str) -> None:
    """Raises Problem for a name that would be taken for a seq, or that a list would show as another."""
    if name.isascii() and name.isdigit():
        raise Problem("invalid_params", f"name: {name[:40]!r} is a number", "Numbers are seqs: give it another name.")
    if name != " ".join(name.split()) or any(category(character) == "Cc" for character in name):
        raise Problem(
            "invalid_params",
            f"name: {name[:40]!r} is not what a list would show",
            "Single spaces between its words are all the white space it may have, and no control characters.",
        )


def _closed(session: int) -> Problem:
    return Problem(
        "session_closed",
        f"session {session} is closed",
        f"It can be read and forked: `walrusctl session fork {session}`.",
    )
