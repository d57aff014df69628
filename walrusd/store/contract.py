"""The interface of an event store: an append-only log of events, and the state beside it.

`submit` queues a write and never blocks. Outcomes come as callbacks on trio's thread: batch by batch, in the order of
their offsets. Reads are coroutines; they see every write whose callback has run.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from walrus_protocol.content import Content, MessageKind, State
from walrus_protocol.events import Tick
from walrus_protocol.methods.search import Hit
from walrus_protocol.problems import Problem
from walrus_protocol.wire import Kind
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState
from walrusd.store.retention_contract import RetentionStore


class EventRow(Struct, frozen=True):
    """A row of the log. `body` is the event's JSON without seq and offset."""

    seq: int
    offset: int
    body: bytes


class InboxEntry(Struct, frozen=True, kw_only=True):
    """A message in a session's inbox: accepted, but not yet in the log.

    Entries are taken in the order of `place`. An entry of kind `close` is a close request that was accepted while
    turns were running or waiting.
    """

    place: int
    kind: MessageKind | Literal["close"]
    content: Content = ""
    sender: str = ""
    key: str | None = None
    timeout_s: float | None = None


class IdempotencyKey(Struct, frozen=True, kw_only=True):
    """A used idempotency key with the digest of the content sent with it.

    `turn` is None while the content is queued.
    """

    key: str
    digest: bytes
    turn: int | None = None


class TurnSpan(Struct, frozen=True):
    """The seqs of a turn's user message and of its `done` (None until the turn has ended)."""

    first_seq: int
    last_seq: int | None


class StoredOutput(Struct, frozen=True, kw_only=True):
    """The whole output of a tool, stored once per content. `ref` is a hash of `body`, which is UTF-8."""

    ref: str
    body: bytes

    @classmethod
    def from_body(cls, body: bytes) -> "StoredOutput":
        return cls(ref=hashlib.sha256(body).hexdigest()[:32], body=body)


class ScheduleRow(Struct, frozen=True, kw_only=True):
    """The state of a schedule that must survive a restart. Its settings come from the configuration."""

    name: str
    next_slot: float
    paused: bool = False
    failures: int = 0
    """Number of ticks that failed in a row."""
    closed_until: float | None = None
    """Time until which its circuit breaker is open."""
    seen: str = ""
    """Output of the last run of its probe."""
    session: int | None = None
    """The session that all its ticks use, if it does not create one for each tick."""


MAX_SCANNED_ROWS = 8_192
"""Maximum rows that one page of the global stream scans: some 5 ms, after which other queries can run."""
MAX_LEDGER_ROWS = 5_000
"""Maximum ledger rows kept per schedule: three days of one a minute, half a year of one an hour."""
MAX_DAEMON_EVENTS = 100_000
"""Maximum daemon events kept, the newest: some 30 MB, or a year and a half of ticks every ten minutes."""
SESSIONS_EXPIRED_PREFIX = b'{"type":"sessions_expired",'
"""First bytes of a daemon event that is kept for ever: it records which sessions were deleted."""
DAEMON_SESSION = 0
"""Pseudo session id of daemon events; their seq numbers are internal."""


class SessionSnapshot(Struct, frozen=True, kw_only=True):
    """The stored rows from which a session is rebuilt.

    They are the first page of events, the last seq, the inbox and the draft.
    """

    rows: list[EventRow]
    last_seq: int
    inbox: list[InboxEntry]
    draft: Draft | None


class ImportedSession(Struct, frozen=True, kw_only=True):
    """An imported session whose rows are all written, with its forks as (child, parent, seq).

    A closed session counts as closed at `imported_at`, so that retention does not delete it right after its import.
    """

    session_state: SessionState
    forks: Sequence[tuple[int, int, int]]
    imported_at: float


class Write(Struct, kw_only=True):
    """One transaction on one session: all of it is durable before `committed` runs, or none ever is."""

    session: int
    """DAEMON_SESSION for a daemon event, which has no session state."""
    session_state: SessionState | None = None
    """The session's row after `bodies`; None leaves it as it is."""
    bodies: Sequence[bytes] = ()
    first_seq: int = 0
    """Seq of the first body; the others follow without a gap."""
    enqueue: Sequence[InboxEntry] = ()
    dequeue: Sequence[int] = ()
    """Places of inbox entries to remove."""
    idempotency_keys: Sequence[IdempotencyKey] = ()
    """Keys to insert, or to update with their turn."""
    turn_opened: tuple[int, int] | None = None
    """(turn, first_seq)"""
    turn_ended: tuple[int, int] | None = None
    """(turn, last_seq)"""
    draft: Draft | Literal["keep", "drop"] = "keep"
    create_key: IdempotencyKey | None = None
    """Key of the `session.create` that created this session; such keys are daemon-wide."""
    output: StoredOutput | None = None
    """An output of this session; if it is stored already, it is not written again."""
    ticks: Sequence[Tick] = ()
    """Ledger rows to insert, or to update by their number."""
    schedule: ScheduleRow | None = None
    expired_sessions: Sequence[int] = ()
    """Closed sessions to delete. They are not listed from now on; `sweep` deletes their events later."""
    released_outputs: Sequence[tuple[int, str]] = ()
    """(session, ref) of outputs that a session loses. `sweep` deletes outputs that no session has."""
    pending_imports: Sequence[int] = ()
    """Sessions whose rows are written before they are listed. `sweep` deletes them unless they are in
    `importing_sessions`."""
    searchable: bool = True
    """Whether `search` finds the texts in the bodies."""
    turn_spans: Sequence[tuple[int, int, int]] = ()
    """(turn, first_seq, last_seq) of turns that have ended."""
    imported: ImportedSession | None = None
    """A session of `pending_imports` that is listed from now on."""
    committed: Callable[[int], None]
    """Called with the offset of the first body; the others follow without a gap. Must not raise."""
    failed: Callable[[Exception], None]
    """Called instead of `committed`, with StorageFull or StorageFailed."""


class StorageFailed(Problem):
    """Raised if the store cannot write or read. Nothing of a failed write is durable, and it used no seq."""

    _kind: Kind = "storage_failed"
    _hint = "Check the disk and the daemon's log; the session continues when the store can write again."

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(self._kind, message, hint or self._hint)


class StorageFull(StorageFailed):
    """Raised if there is no disk space left for the log."""

    _kind = "storage_full"
    _hint = "Free some disk space; the session continues when the store can write again."


class SessionFilter(Struct, frozen=True, kw_only=True):
    """Selects the sessions to list, newest first; with `before`, only those with a smaller id."""

    agent: str | None = None
    state: State | None = None
    include_closed: bool = False
    before: int | None = None
    limit: int = 50


class StreamFilter(Struct, frozen=True, kw_only=True):
    """Selects events of the daemon-wide stream; a filter that is None matches all.

    A daemon event is in no session. One about an agent, such as a tick, matches that agent.
    """

    sessions: frozenset[int] | None = None
    agents: frozenset[str] | None = None
    types: frozenset[str] | None = None
    include_deltas: bool = True
    """Whether the live events of text and thinking match."""

    def matches(self, session: int | None, agent: str, type_: str) -> bool:
        return (
            (self.sessions is None or session in self.sessions)
            and (self.agents is None or agent in self.agents)
            and (self.types is None or type_ in self.types)
            and (self.include_deltas or type_ not in DELTA_TYPES)
        )


DELTA_TYPES = frozenset({"text_delta", "thinking_delta"})


class StreamPage(Struct, frozen=True):
    """Rows of all sessions in the order of offsets. No other row up to `upto` follows the last one."""

    rows: list[EventRow]
    upto: int


class FileSizes(Struct, frozen=True):
    """Sizes of the files in bytes. The write-ahead log is the part that is not in the database yet."""

    db_bytes: int
    wal_bytes: int


class Log(RetentionStore, Protocol):
    """A store. It is used from trio's thread."""

    def submit(self, write: Write) -> None:
        """Queues a write. Exactly one of its callbacks is called later."""

    def next_session(self) -> int:
        """Returns a session id that was never used before and never will be again, restarts included."""

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[EventRow]:
        """Returns rows with seq > since in order: at most `limit` and `max_bytes`, but one if there is any."""

    def last_offset(self) -> int:
        """Returns the highest offset ever used.

        The callback of its write may not have run yet, and its row may be deleted already.
        """

    async def stream_page(
        self, stream_filter: StreamFilter, since: int, upto: int, limit: int, max_bytes: int = 1024 * 1024
    ) -> StreamPage:
        """Returns rows with since < offset <= upto: daemon events (with seq 0) and those of listed sessions.

        A page has at most `limit` rows and `max_bytes`, but one row if any was found. It ends after MAX_SCANNED_ROWS
        scanned rows, even if it is empty by then.
        """

    async def session_snapshot(self, session: int, limit: int, max_bytes: int = 1024 * 1024) -> SessionSnapshot | None:
        """Returns the snapshot of a session, or None if there is none. Its page has the limits of `events`."""

    async def session_state(self, session: int) -> SessionState | None: ...

    async def list_sessions(self, session_filter: SessionFilter) -> list[tuple[SessionState, int]]:
        """Returns the matching sessions, newest first, each with its number of queued messages.

        A queued close is not counted.
        """

    async def inbox(self, session: int) -> list[InboxEntry]:
        """Returns the inbox in the order of `place`."""

    async def draft(self, session: int) -> Draft | None: ...

    async def idempotency_key(self, session: int, key: str) -> IdempotencyKey | None: ...

    async def session_created_with(self, key: str) -> tuple[int, bytes] | None:
        """Returns the session created with this key and the digest of its request, or None if there is none."""

    async def turn_span(self, session: int, turn: int) -> TurnSpan | None: ...

    async def unfinished_sessions(self) -> list[int]:
        """Returns the sessions with an open turn or a non-empty inbox."""

    async def open_session_count(self) -> int:
        """Returns the number of sessions that are not closed."""

    async def output(self, session: int, ref: str, offset: int, limit: int) -> bytes | None:
        """Returns at most `limit` bytes of an output from `offset` on, or None if the session lacks it."""

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        """Returns the messages of users and models that contain all words of the query, newest first.

        Order, case and accents of the words do not matter. With `before`, only events with a smaller offset match.
        "Words in quotes" match as a phrase, and `beginning*` matches every word with that prefix. There is no other
        syntax.
        """

    async def schedules(self) -> list[ScheduleRow]:
        """Returns all schedules, sorted by name."""

    async def ticks(
        self, schedule: str | None = None, *, before: int | None = None, news: bool = False, limit: int = 50
    ) -> list[Tick]:
        """Returns rows of the ledger, newest first; with `before`, only those with a smaller number.

        The last MAX_LEDGER_ROWS of each schedule are kept, and those that are running.
        """

    async def running_ticks(self) -> list[Tick]:
        """Returns the ticks of outcome `running`, newest first."""

    async def last_tick_and_seq(self) -> tuple[int, int]:
        """Returns the number of the last tick and the seq of the last daemon event; 0 if there is none."""

    async def wait_for_writes(self) -> None:
        """Returns when all writes submitted before it have an outcome. Serves as a health check.

        It writes nothing. Raises StorageFailed if the store is closed.
        """

    def file_sizes(self) -> FileSizes:
        """Returns the current sizes of the files."""

    async def aclose(self) -> None:
        """Finishes the submitted writes and releases the file."""
