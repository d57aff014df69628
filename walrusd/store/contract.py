"""The contract of a store: one append-only log of events, and beside it what has not become an event yet.

Two stores fill it, `sqlite` and its twin `memory`; one test suite runs on both. Writes are handed over by
`submit`, which never blocks, and come back as callbacks on trio's thread: batch by batch, in the order of their
offsets. Reads are coroutines and see every write whose callback has run.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from walrus_protocol.content import Content, MessageKind, State
from walrus_protocol.events import Tick
from walrus_protocol.methods.search import Hit
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState
from walrusd.store.retention_contract import RetentionStore


class EventRow(Struct, frozen=True):
    """A row of the log: `body` is the event's JSON without seq and offset."""

    seq: int
    offset: int
    body: bytes


class InboxEntry(Struct, frozen=True, kw_only=True):
    """A message in a session's inbox: accepted, and not yet in its log. Taken in the order of `place`.

    The entry of kind `close` is a close that was accepted while turns were running or waiting.
    """

    place: int
    kind: MessageKind | Literal["close"]
    content: Content = ""
    sender: str = ""
    key: str | None = None
    timeout_s: float | None = None


class IdempotencyKey(Struct, frozen=True, kw_only=True):
    """A key that was used: by a send of which content, and the turn that it became (null while it waits)."""

    key: str
    digest: bytes
    turn: int | None = None


class TurnSpan(Struct, frozen=True):
    """The seqs of a turn: its user message and, once it has ended, its `done`."""

    first_seq: int
    last_seq: int | None


class StoredOutput(Struct, frozen=True, kw_only=True):
    """A tool's whole output, kept once however often it is said: `ref` follows from its bytes, which are UTF-8."""

    ref: str
    body: bytes

    @classmethod
    def from_body(cls, body: bytes) -> "StoredOutput":
        return cls(ref=hashlib.sha256(body).hexdigest()[:32], body=body)


class ScheduleRow(Struct, frozen=True, kw_only=True):
    """How a schedule stands: what has to outlive a restart. `load` of the config says what it is."""

    name: str
    next_slot: float
    paused: bool = False
    failures: int = 0
    """Ticks that failed, one after the other."""
    closed_until: float | None = None
    """Until when its breaker is open."""
    seen: str = ""
    """What its probe said when it last ran."""
    session: int | None = None
    """The one that it uses again and again."""


MAX_SCANNED_ROWS = 8_192
"""Rows of the stream that a page may look at: some 5 ms, after which others have their turn."""
MAX_LEDGER_ROWS = 5_000
"""Rows of a schedule that are kept: three days of one a minute, half a year of one an hour."""
MAX_DAEMON_EVENTS = 100_000
"""Facts of the daemon that are kept, the latest: some 30 MB, and a year and a half of ticks every ten minutes."""
SESSIONS_EXPIRED_PREFIX = b'{"type":"sessions_expired",'
"""How the row of a fact begins that is kept for good: it tells which sessions were thrown away."""
DAEMON_SESSION = 0
"""In the place of a session: facts of the daemon itself, with seqs of their own that nobody is told."""


class SessionSnapshot(Struct, frozen=True, kw_only=True):
    """What a session is folded from, in one look: its first page of rows and where they end, its inbox, its draft."""

    rows: list[EventRow]
    last_seq: int
    inbox: list[InboxEntry]
    draft: Draft | None


class ImportedSession(Struct, frozen=True, kw_only=True):
    """A session whose rows were all written before it is there, with its forks (child, parent, seq).

    Where it is closed it counts as closed `at` that time, when it came: who brings it in wants to have it for a while.
    """

    session_state: SessionState
    forks: Sequence[tuple[int, int, int]]
    imported_at: float


class Write(Struct, kw_only=True):
    """One transaction on one session. All of it is durable before `committed` is called, or none of it ever is."""

    session: int
    """DAEMON for a fact of the daemon, with no outline."""
    session_state: SessionState | None = None
    """The session's row after `bodies`; None leaves it as it is."""
    bodies: Sequence[bytes] = ()
    first_seq: int = 0
    """The seq of the first body; the others follow without a gap."""
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
    """The key of the `session.create` that made this session; such keys are daemon-wide."""
    output: StoredOutput | None = None
    """An output of this session; one that is there already is not written again."""
    ticks: Sequence[Tick] = ()
    """Rows of the ledger, new ones and, by their number, changed ones."""
    schedule: ScheduleRow | None = None
    expired_sessions: Sequence[int] = ()
    """Closed sessions that are thrown away: there are none of these from now on. Their events go with `sweep`."""
    released_outputs: Sequence[tuple[int, str]] = ()
    """Sessions and refs of outputs that they are no longer to have. What nobody has any more goes with `sweep`."""
    pending_imports: Sequence[int] = ()
    """Sessions whose rows are written before they are there. Nobody lists them, and while they are not among those
    that are `importing` they go with `sweep`."""
    searchable: bool = True
    """Whether what the bodies say is found by `search`."""
    turn_spans: Sequence[tuple[int, int, int]] = ()
    """(turn, first_seq, last_seq) of turns that have ended."""
    imported: ImportedSession | None = None
    """One of those unseen that is there from now on."""
    committed: Callable[[int], None]
    """Called with the offset of the first body; the others follow without a gap. Does not raise."""
    failed: Callable[[Exception], None]
    """Called instead, with StorageFull or StorageFailed."""


class StorageFailed(Exception):
    """The store could not write. Nothing of the write is durable; it used no seq."""

    kind = "storage_failed"
    hint = "Look at the disk and at the daemon's log; the session goes on when the store can write again."


class StorageFull(StorageFailed):
    """There is no space left for the log."""

    kind = "storage_full"
    hint = "Free some disk space; the session goes on when the store can write again."


class SessionFilter(Struct, frozen=True, kw_only=True):
    """Which sessions to list, newest first, from the one before `before` on."""

    agent: str | None = None
    state: State | None = None
    include_closed: bool = False
    before: int | None = None
    limit: int = 50


class StreamFilter(Struct, frozen=True, kw_only=True):
    """Which events of the daemon-wide stream; None is all.

    A fact of the daemon is in no session; one that tells of an agent, as a tick does, is among those of that agent.
    """

    sessions: frozenset[int] | None = None
    agents: frozenset[str] | None = None
    types: frozenset[str] | None = None
    include_deltas: bool = True
    """Of the live ones, those of text and thinking, too."""

    def matches(self, session: int | None, agent: str, type_: str) -> bool:
        return (
            (self.sessions is None or session in self.sessions)
            and (self.agents is None or agent in self.agents)
            and (self.types is None or type_ in self.types)
            and (self.include_deltas or type_ not in DELTA_TYPES)
        )


DELTA_TYPES = frozenset({"text_delta", "thinking_delta"})


class StreamPage(Struct, frozen=True):
    """Rows of all sessions, in order of offset; behind the last there is no other that was wanted up to `upto`."""

    rows: list[EventRow]
    upto: int


class FileSizes(Struct, frozen=True):
    """What the files take; the write-ahead log is the part that is not in the database yet."""

    db_bytes: int
    wal_bytes: int


class Log(RetentionStore, Protocol):
    def submit(self, write: Write) -> None:
        """Take a write. Its outcome comes by one of its callbacks, always."""

    def next_session(self) -> int:
        """A session id that was never given before, and never will be again, restarts included."""

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[EventRow]:
        """Rows with seq > since in order: at most `limit` and `max_bytes`, yet one if there is any."""

    def last_offset(self) -> int:
        """The highest that was ever given. Its row may not be told of yet, or be thrown away already."""

    async def stream_page(
        self, stream_filter: StreamFilter, since: int, upto: int, limit: int, max_bytes: int = 1024 * 1024
    ) -> StreamPage:
        """Rows with since < offset <= upto, of the daemon (their seq is 0) and of the sessions that are listed.

        At most `limit` of them and `max_bytes`, yet one if there is any; and a page ends where LOOKED_AT rows were
        looked at, whatever it has found by then.
        """

    async def session_snapshot(self, session: int, limit: int, max_bytes: int = 1024 * 1024) -> SessionSnapshot | None:
        """None where there is no such session. Pages of rows are as those of `events`."""

    async def session_state(self, session: int) -> SessionState | None: ...

    async def list_sessions(self, session_filter: SessionFilter) -> list[tuple[SessionState, int]]:
        """The sessions that match, newest first, each with the number of messages in its inbox (a close is none)."""

    async def inbox(self, session: int) -> list[InboxEntry]:
        """The inbox, in the order of place."""

    async def draft(self, session: int) -> Draft | None: ...

    async def idempotency_key(self, session: int, key: str) -> IdempotencyKey | None: ...

    async def session_created_with(self, key: str) -> tuple[int, bytes] | None:
        """The session that was made with this key, and the digest of what was asked."""

    async def turn_span(self, session: int, turn: int) -> TurnSpan | None: ...

    async def unfinished_sessions(self) -> list[int]:
        """Sessions with an open turn or a filled inbox."""

    async def open_session_count(self) -> int:
        """How many are not closed."""

    async def output(self, session: int, ref: str, offset: int, limit: int) -> bytes | None:
        """At most `limit` bytes of an output from `offset` on; None where the session has no such output."""

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        """Where people and models have said all of the query's words, whatever their order, case and accents.

        Newest first, from the event before the one at the offset `before` on. "Words in quotes" stand in a row, and
        a `beginning*` stands for every word that begins so; there is no other sign.
        """

    async def schedules(self) -> list[ScheduleRow]:
        """By name."""

    async def ticks(
        self, schedule: str | None = None, *, before: int | None = None, news: bool = False, limit: int = 50
    ) -> list[Tick]:
        """Rows of the ledger, newest first, from the one before `before` on.

        Of each schedule the last LEDGER are kept, and those that are running.
        """

    async def running_ticks(self) -> list[Tick]:
        """Those of outcome `running`, newest first."""

    async def last_tick_and_seq(self) -> tuple[int, int]:
        """The number of the last tick and the seq of the daemon's last fact; 0 where there is none."""

    async def wait_for_writes(self) -> None:
        """Return when the store has got through with what was submitted before: the proof that it lives.

        It writes nothing. Raises StorageFailed where the store is closed.
        """

    def file_sizes(self) -> FileSizes:
        """As they are now."""

    async def aclose(self) -> None:
        """Finish what was submitted and release the file."""
