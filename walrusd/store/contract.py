"""The interface of an event store: an append-only log of events, and the state beside it.

`submit` queues a write and never blocks. Outcomes come as callbacks on trio's thread: batch by batch, in the order of
their offsets. Reads are coroutines; they see every write whose callback has run.
"""

from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import apsw
from msgspec import Struct

from walrus_protocol.methods.search import Hit
from walrusd.session.session_state import SessionState
from walrusd.store.retention_contract import RetentionStore
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.session import SessionFilter, SessionSnapshot
from walrusd.store.tables.table import Mutation

P = ParamSpec("P")
T = TypeVar("T")

MAX_SCANNED_ROWS = 8_192
"""Maximum rows that one page of the global stream scans: some 5 ms, after which other queries can run."""


class Write(Struct, kw_only=True):
    """One transaction on one session: all of it is durable before `committed` runs, or none ever is."""

    session: int
    """DAEMON_SESSION for a daemon event, which has no session state."""
    bodies: Sequence[bytes] = ()
    first_seq: int = 0
    """Seq of the first body; the others follow without a gap."""
    searchable: bool = True
    """Whether `search` finds the texts in the bodies."""
    session_state: SessionState | None = None
    """The session's row after `bodies`; None leaves it as it is."""
    mutations: Sequence[Mutation] = ()
    """The other changes, made in the order of their kinds in TABLES. Only a daemon write changes other sessions."""
    committed: Callable[[int], None]
    """Called with the offset of the first body; the others follow without a gap. Must not raise."""
    failed: Callable[[Exception], None]
    """Called instead of `committed`, with StorageFull or StorageFailed."""


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

    async def read(self, query: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns the result of a read function of a table, such as `inbox.read_inbox`."""

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        """Returns the messages of users and models that contain all words of the query, newest first.

        Order, case and accents of the words do not matter. With `before`, only events with a smaller offset match.
        "Words in quotes" match as a phrase, and `beginning*` matches every word with that prefix. There is no other
        syntax.
        """

    async def wait_for_writes(self) -> None:
        """Returns when all writes submitted before it have an outcome. Serves as a health check.

        It writes nothing. Raises StorageFailed if the store is closed.
        """

    def file_sizes(self) -> FileSizes:
        """Returns the current sizes of the files."""

    async def aclose(self) -> None:
        """Finishes the submitted writes and releases the file."""
