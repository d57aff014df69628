"""The log's twin in memory, shipped for tests: the same promises, kept as long as its `Disk` lives."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Literal, TypeVar

import trio

from walrus_protocol.events import Tick
from walrus_protocol.searching import Hit
from walrusd.session import outline
from walrusd.session.mend import Draft
from walrusd.session.outline import Outline
from walrusd.store.coding import decode_draft, decode_queued, decode_schedule
from walrusd.store.disk import Disk, Kept, by_seq
from walrusd.store.keeping import FIRST, GROWTH, Claim, Closed, Place, Room, Swept
from walrusd.store.log import (
    DAEMON,
    LOOKED_AT,
    Filter,
    Opening,
    Queued,
    Schedule,
    Sent,
    Sizes,
    Span,
    StorageFailed,
    Stored,
    StreamPage,
    Wanted,
    Write,
)
from walrusd.store.pulse import Pulse
from walrusd.store.search import Row, search_among
from walrusd.store.stream import agent_in, type_in

Size = TypeVar("Size", Closed, Claim)


class MemoryLog:
    """A `Log` without a file. `MemoryLog(log.disk)` is the restart: all that was committed, and nothing else.

    While `fail_with` is set every write fails with it, and reads go on.
    """

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.disk.serves = self
        self.fail_with: StorageFailed | None = None
        self.importing: set[int] = set()
        self._growth = trio.Event()
        self._waiting: list[Write | Pulse] = []
        self._closed = False

    def submit(self, write: Write) -> None:
        self.disk.given = max(self.disk.given, write.session)
        self._take(write)

    def _take(self, one: Write | Pulse) -> None:
        if not self._waiting:
            trio.lowlevel.current_trio_token().run_sync_soon(self._commit)
        self._waiting.append(one)

    def next_session(self) -> int:
        self.disk.given += 1
        return self.disk.given

    def _commit(self) -> None:
        """What waits is one batch: all of it is durable before the first is told."""
        batch, self._waiting = self._waiting, []
        for outcome in [self._settle(one) for one in batch]:
            outcome()

    def _settle(self, write: Write | Pulse) -> Callable[[], None]:
        if isinstance(write, Pulse):
            gone = self._gone()
            return partial(write.failed, gone) if gone else write.answered
        failure = self._gone() or self.fail_with or self.disk.refusal(write)
        if failure:
            return partial(write.failed, failure)
        first_offset = self.disk.offset + 1
        self.disk.put(write)
        if self.disk.written >= GROWTH:
            self.disk.written = 0
            self._growth.set()
        return partial(write.committed, first_offset)

    def _gone(self) -> StorageFailed | None:
        if self.disk.serves is not self:
            return StorageFailed("another log has taken the disk over")
        return StorageFailed("the log is closed") if self._closed else None

    async def _read(self, session: int) -> Kept:
        await self._arrive()
        return self.disk.sessions.get(session, Kept())

    async def _arrive(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise StorageFailed("the log is closed")

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[Stored]:
        rows = (await self._read(session)).rows
        start = bisect_right(rows, since, key=by_seq)
        return _page(rows[start : start + limit], limit, max_bytes)

    def last_offset(self) -> int:
        return self.disk.offset

    async def stream(
        self, wanted: Wanted, since: int, upto: int, limit: int, max_bytes: int = 1024 * 1024
    ) -> StreamPage:
        await self._arrive()
        agents = {row.id: row.agent for row in self.disk.outlines()}
        behind = sorted(
            (row.offset, session, row)
            for session, kept in self.disk.sessions.items()
            for row in kept.rows
            if row.offset > since
        )
        end = min([upto, *(offset + LOOKED_AT - 1 for offset, _, _ in behind[:1])])
        found = [
            Stored(row.seq if session else 0, offset, row.body)
            for offset, session, row in behind
            if offset <= end
            and (session == DAEMON or session in agents)
            and wanted.has(session, agents.get(session) or agent_in(row.body) or "", type_in(row.body))
        ]
        rows = _page(found, limit, max_bytes)
        return StreamPage(rows, rows[-1].offset if len(rows) == limit or len(rows) < len(found) else end)

    async def opening(self, session: int, limit: int, max_bytes: int = 1024 * 1024) -> Opening | None:
        row = await self.outline(session)
        if row is None:
            return None
        rows = await self.events(session, 0, limit, max_bytes)
        inbox, draft = await self.queue(session), await self.draft(session)
        return Opening(rows=rows, last_seq=row.last_seq, inbox=inbox, draft=draft)

    async def outline(self, session: int) -> Outline | None:
        row = (await self._read(session)).outline
        return None if row is None else outline.decode(row)

    async def outlines(self, wanted: Filter) -> list[tuple[Outline, int]]:
        await self._arrive()
        page: list[tuple[Outline, int]] = []
        for row in reversed(self.disk.outlines()):
            if len(page) < wanted.limit and _matches(row, wanted):
                inbox = map(decode_queued, self.disk.kept(row.id).inbox.values())
                page.append((row, sum(queued.kind != "close" for queued in inbox)))
        return page

    async def queue(self, session: int) -> list[Queued]:
        inbox = (await self._read(session)).inbox
        return [decode_queued(inbox[place]) for place in sorted(inbox)]

    async def draft(self, session: int) -> Draft | None:
        row = (await self._read(session)).draft
        return None if row is None else decode_draft(row)

    async def sent(self, session: int, key: str) -> Sent | None:
        return (await self._read(session)).sent.get(key)

    async def created_with(self, key: str) -> tuple[int, bytes] | None:
        await self._arrive()
        return self.disk.created.get(key)

    async def span(self, session: int, turn: int) -> Span | None:
        return (await self._read(session)).turns.get(turn)

    async def unfinished(self) -> list[int]:
        await self._arrive()
        in_turn = {row.id for row in self.disk.outlines() if row.turn}
        return sorted(in_turn.union(session for session, kept in self.disk.sessions.items() if kept.inbox))

    async def open_sessions(self) -> int:
        await self._arrive()
        return sum(row.state != "closed" for row in self.disk.outlines())

    async def output(self, session: int, ref: str, offset: int, limit: int) -> bytes | None:
        readable = ref in (await self._read(session)).outputs
        return self.disk.outputs[ref][offset : offset + limit] if readable else None

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        await self._arrive()
        agents = {row.id: row.agent for row in self.disk.outlines()}
        rows = [
            Row(row.offset, session, row.seq, row.body, agents.get(session, ""))
            for session, kept in self.disk.sessions.items()
            for row in kept.rows
            if session not in self.disk.remains and (before is None or row.offset < before)
        ]
        return search_among(sorted(rows, reverse=True), query, limit)

    async def schedules(self) -> list[Schedule]:
        await self._arrive()
        return [decode_schedule(row) for _, row in sorted(self.disk.schedules.items())]

    async def ticks(
        self, schedule: str | None = None, *, before: int | None = None, news: bool = False, limit: int = 50
    ) -> list[Tick]:
        await self._arrive()
        ticks = self._ticks() if schedule is None else self.disk.ledgers.get(schedule, {})
        wanted = (
            n for n in sorted(ticks, reverse=True) if (before is None or n < before) and (ticks[n].news or not news)
        )
        return [ticks[number] for number in islice(wanted, limit)]

    async def running_ticks(self) -> list[Tick]:
        await self._arrive()
        ticks = self._ticks()
        return [ticks[n] for n in sorted(ticks, reverse=True) if ticks[n].outcome == "running"]

    async def last_of_daemon(self) -> tuple[int, int]:
        rows = (await self._read(DAEMON)).rows
        return max(self._ticks(), default=0), rows[-1].seq if rows else 0

    async def pulse(self) -> None:
        pulse = Pulse()
        self._take(pulse)
        await pulse.wait()

    def sizes(self) -> Sizes:
        return Sizes(0, 0)

    async def room(self) -> Room:
        await self._arrive()
        return self.disk.room()

    async def grown(self) -> None:
        await self._growth.wait()
        self._growth = trio.Event()

    async def closed(self, before: float, *, after: Place = FIRST, enough: int, most: int) -> list[Closed]:
        await self._arrive()
        return _enough((one for one in self.disk.closed(before) if one.place > after), enough)[:most]

    async def outputs(self, of: Literal["closed", "all"], *, enough: int, most: int) -> list[Claim]:
        await self._arrive()
        return _enough(self.disk.claims(of), enough)[:most]

    async def unnamed(self) -> list[int]:
        await self._arrive()
        return []

    async def sweep(self) -> Swept:
        await self._arrive()
        return self.disk.sweep(self.importing)

    async def aclose(self) -> None:
        """Finish what was submitted. The disk keeps it."""
        self._commit()
        self._closed = True
        await trio.lowlevel.checkpoint()

    def _ticks(self) -> dict[int, Tick]:
        """Those of all schedules, by number."""
        return {number: tick for ledger in self.disk.ledgers.values() for number, tick in ledger.items()}


def _page(rows: list[Stored], limit: int, max_bytes: int) -> list[Stored]:
    page: list[Stored] = []
    for row in rows[:limit]:
        max_bytes -= len(row.body)
        if page and max_bytes < 0:
            break
        page.append(row)
    return page


def _enough(found: Iterable[Size], enough: int) -> list[Size]:
    """The first of them that make up so many bytes, and what comes with the last at no cost."""
    taken: list[Size] = []
    for one in found:
        if enough <= 0 and one.bytes:
            break
        taken.append(one)
        enough -= one.bytes
    return taken


def _matches(row: Outline, wanted: Filter) -> bool:
    return (
        (row.state == wanted.state if wanted.state else wanted.include_closed or row.state != "closed")
        and (wanted.agent is None or row.agent == wanted.agent)
        and (wanted.before is None or row.id < wanted.before)
    )
