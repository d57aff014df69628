"""The daemon-wide stream: every session's events and the daemon's own facts, in the order of their offsets.

Its readers are kept by what they wish for, so that an event costs nothing for those whom it does not concern: they are
not looked at, let alone woken. One that is concerned is owed the fact from then on, and pulls it as all readers do.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from walrus_protocol.content import State
from walrus_protocol.events import DaemonFact, SessionClosed, SessionImported, SessionsExpired, Tick, type_of
from walrusd.ports import Clock
from walrusd.runtime.bus import PAGE, Fact, Now, Passing, Reader, Speaking, push
from walrusd.runtime.crowd import Crowd
from walrusd.store.log import DELTAS, Log, Wanted

WINDOW = 4096
"""Facts held while there are readers: a fifth of a second of sixty sessions at full speed."""
WINDOW_BYTES = 4 * 1024 * 1024

ANY: Hashable = "any"
QUIET: Hashable = "any but deltas"


class _Shown(NamedTuple):
    fact: Fact
    session: int | None
    agent: str
    type: str


class Everything:
    """The fan-out of the whole daemon. Cursors count by offset; between two offsets there may be gaps."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        *,
        running: Callable[[], int] = lambda: 0,
        speaking: Callable[[], Iterable[Speaking]] = tuple,
    ) -> None:
        """Made before anything is written: what is in the log by then was published by an earlier process."""
        self.crowd = Crowd()
        self.last_offset = log.last_offset()
        self._log = log
        self._clock = clock
        self._running = running
        self._speaking = speaking
        self._window: deque[_Shown] = deque()
        self._window_bytes = 0
        self._readers: dict[Hashable, set[Reader]] = {}
        self._open: dict[Reader, set[int]] = {}
        """Of those that end with their sessions: which are not closed yet."""

    def publish(self, fact: Fact, agent: str) -> None:
        """A fact of a session of `agent`."""
        self.last_offset = fact.offset
        if self._readers:
            event = fact.event
            self._show(_Shown(fact, event.session, agent, type_of(type(event))))
            if isinstance(event, SessionClosed) and event.session is not None:
                for reader in self._readers.get(("session", event.session), ()):
                    self.closed(reader, event.session)

    def publish_daemon(self, offset: int, body: bytes, event: DaemonFact) -> None:
        self.last_offset = offset
        if isinstance(event, SessionImported | SessionsExpired):
            self._clear()  # behind it the store has events among these that are not here, or has some no more
        if self._readers:
            agent = event.agent if isinstance(event, Tick | SessionImported) else ""
            self._show(_Shown(Fact(seq=0, offset=offset, body=body), None, agent, type_of(type(event))))

    def pass_on(self, passing: Passing, agent: str) -> None:
        """A live event of a session of `agent`."""
        if self._readers:
            event = passing.event
            push(passing, self._concerned(event.session, agent, type_of(type(event))), self.crowd)

    def reader(self, since: int | None, wanted: Wanted, *, mark: bool = False) -> Reader:
        """A cursor behind the offset `since`, at the end where that is None. The rest is as in a Feed."""
        last = self.last_offset
        reader = Reader(self, last if since is None else since, last, wanted, mark=mark)
        for key in _keys(wanted):
            self._readers.setdefault(key, set()).add(reader)
        return reader

    def end_with_sessions(self, reader: Reader) -> None:
        """End it when all sessions that it is about are closed; which of them are already is to be told by `closed`."""
        self._open[reader] = set(reader.wanted.sessions or ())

    def closed(self, reader: Reader, session: int) -> None:
        if (sessions := self._open.get(reader)) is not None:
            sessions.discard(session)
            if not sessions:
                reader.end()

    def forget(self, reader: Reader) -> None:
        self._open.pop(reader, None)
        for key in _keys(reader.wanted):
            if readers := self._readers.get(key):
                readers.discard(reader)
                if not readers:
                    del self._readers[key]
        if not self._readers:
            self._clear()

    def place(self, fact: Fact) -> int:
        return fact.offset

    def in_window(self, reader: Reader) -> tuple[Fact | None, int]:
        window, cursor = self._window, reader.cursor
        if not window or window[0].fact.offset > cursor + 1:
            return None, cursor
        for number in range(bisect_right(window, cursor, key=_offset), len(window)):
            shown = window[number]
            if reader.wanted.has(shown.session, shown.agent, shown.type):
                return shown.fact, cursor
        return None, self.last_offset

    async def in_store(self, reader: Reader) -> tuple[list[Fact], int]:
        page = await self._log.stream(reader.wanted, reader.cursor, self.last_offset, PAGE)
        return [Fact(seq=row.seq, offset=row.offset, body=row.body) for row in page.rows], page.upto

    def now(self) -> Now:
        """The daemon's own state is `processing` while a turn runs in any session."""
        state: State = "processing" if self._running() else "idle"
        return Now(ts=self._clock(), session=None, state=state, speaking=tuple(self._speaking()))

    def _show(self, shown: _Shown) -> None:
        self._window.append(shown)
        self._window_bytes += len(shown.fact.body)
        while len(self._window) > 1 and (len(self._window) > WINDOW or self._window_bytes > WINDOW_BYTES):
            self._window_bytes -= len(self._window.popleft().fact.body)
        concerned = self._concerned(shown.session, shown.agent, shown.type)
        for reader in concerned:
            reader.owe(shown.fact.offset)
        self.crowd.wake(concerned)

    def _clear(self) -> None:
        self._window.clear()
        self._window_bytes = 0

    def _concerned(self, session: int | None, agent: str, type_: str) -> list[Reader]:
        """In no order: each pulls for itself."""
        concerned = [*self._readers.get(ANY, ())]
        if type_ not in DELTAS:
            concerned += self._readers.get(QUIET, ())
        for key in (("session", session), ("agent", agent), ("type", type_)):
            if readers := self._readers.get(key):
                concerned += [reader for reader in readers if reader.wanted.has(session, agent, type_)]
        return concerned


def _keys(wanted: Wanted) -> list[Hashable]:
    """Where a reader is kept: by what leaves it alone most, and there only. No event is found at two of its keys."""
    if wanted.sessions is not None:
        return [("session", session) for session in wanted.sessions]
    if wanted.agents is not None:
        return [("agent", agent) for agent in wanted.agents]
    if wanted.types is not None:
        return [("type", type_) for type_ in wanted.types]
    return [ANY if wanted.deltas else QUIET]


def _offset(shown: _Shown) -> int:
    return shown.fact.offset
