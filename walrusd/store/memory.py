"""The log's twin in memory, shipped for tests: the same promises, kept as long as its `Disk` lives."""

from bisect import bisect_right, insort
from collections.abc import Callable
from functools import partial
from itertools import islice
from operator import attrgetter

import trio
from msgspec import Struct, field

from walrus_protocol.events import Tick
from walrus_protocol.searching import Hit
from walrusd.session import outline
from walrusd.session.mend import Draft
from walrusd.session.outline import Outline
from walrusd.store.coding import decode_draft, decode_queued, decode_schedule, decode_tick, encode
from walrusd.store.log import (
    DAEMON,
    DAEMON_FACTS,
    LEDGER,
    Filter,
    Opening,
    Queued,
    Schedule,
    Sent,
    Sizes,
    Span,
    StorageFailed,
    Stored,
    Write,
)
from walrusd.store.pulse import Pulse
from walrusd.store.search import Row, search_among

_seq = attrgetter("seq")


class Kept(Struct):
    """What is durable of one session, encoded as on a real disk."""

    outline: bytes | None = None
    rows: list[Stored] = field(default_factory=list)
    inbox: dict[int, bytes] = field(default_factory=dict)
    sent: dict[str, Sent] = field(default_factory=dict)
    turns: dict[int, Span] = field(default_factory=dict)
    draft: bytes | None = None
    outputs: set[str] = field(default_factory=set)


class Disk:
    """What outlives a log. It serves the last one that opened it: for the one before that was a power cut."""

    def __init__(self) -> None:
        self.sessions: dict[int, Kept] = {}
        self.created: dict[str, tuple[int, bytes]] = {}
        self.outputs: dict[str, bytes] = {}
        self.ledgers: dict[str, dict[int, Tick]] = {}
        self.schedules: dict[str, bytes] = {}
        self.offset = 0
        self.given = 0
        self.serves: MemoryLog | None = None


class MemoryLog:
    """A `Log` without a file. `MemoryLog(log.disk)` is the restart: all that was committed, and nothing else.

    While `fail_with` is set every write fails with it, and reads go on.
    """

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.disk.serves = self
        self.fail_with: StorageFailed | None = None
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
        failure = self._gone() or self.fail_with or self._refusal(write)
        if failure:
            return partial(write.failed, failure)
        first_offset = self.disk.offset + 1
        self._put(write)
        return partial(write.committed, first_offset)

    def _gone(self) -> StorageFailed | None:
        if self.disk.serves is not self:
            return StorageFailed("another log has taken the disk over")
        return StorageFailed("the log is closed") if self._closed else None

    def _refusal(self, write: Write) -> StorageFailed | None:
        """What SQLite finds by its unique indexes: a fact is never written twice."""
        kept = self._kept(write.session)
        places = [queued.place for queued in write.enqueue]
        known = {row.seq for row in kept.rows[bisect_right(kept.rows, write.first_seq - 1, key=_seq) :]}
        if (
            known.intersection(range(write.first_seq, write.first_seq + len(write.bodies)))
            or len({*kept.inbox, *places}) < len(kept.inbox) + len(places)
            or (write.turn_opened and write.turn_opened[0] in kept.turns)
            or (write.created_with and write.created_with.key in self.disk.created)
        ):
            return StorageFailed(f"session {write.session}: this was written before")
        return None

    def _put(self, write: Write) -> None:
        kept = self._kept(write.session)
        for seq, body in enumerate(write.bodies, write.first_seq):
            self.disk.offset += 1
            insort(kept.rows, Stored(seq, self.disk.offset, body), key=_seq)
        if write.session == DAEMON and write.bodies:
            del kept.rows[: bisect_right(kept.rows, kept.rows[-1].seq - DAEMON_FACTS, key=_seq)]
        if write.outline:
            kept.outline = outline.encode(write.outline)
        kept.inbox.update((queued.place, encode(queued)) for queued in write.enqueue)
        for place in write.dequeue:
            kept.inbox.pop(place, None)
        kept.sent.update((sent.key, sent) for sent in write.sent)
        if write.created_with:
            self.disk.created[write.created_with.key] = write.session, write.created_with.digest
        self._put_turn(kept, write)
        if write.draft != "keep":
            kept.draft = None if write.draft == "drop" else encode(write.draft)
        if write.output:
            self.disk.outputs.setdefault(write.output.ref, write.output.body)
            kept.outputs.add(write.output.ref)
        for tick in write.ticks:
            self._put_tick(decode_tick(encode(tick)))
        if write.schedule:
            self.disk.schedules[write.schedule.name] = encode(write.schedule)

    def _put_tick(self, tick: Tick) -> None:
        ledger = self.disk.ledgers.setdefault(tick.schedule, {})
        ledger[tick.tick] = tick
        if len(ledger) > LEDGER:
            finished = [number for number in sorted(ledger) if ledger[number].outcome != "running"]
            for number in finished[: len(ledger) - LEDGER]:
                del ledger[number]

    def _put_turn(self, kept: Kept, write: Write) -> None:
        if write.turn_opened:
            turn, first_seq = write.turn_opened
            kept.turns[turn] = Span(first_seq, None)
        if write.turn_ended and write.turn_ended[0] in kept.turns:
            turn, last_seq = write.turn_ended
            kept.turns[turn] = Span(kept.turns[turn].first_seq, last_seq)

    def _kept(self, session: int) -> Kept:
        return self.disk.sessions.setdefault(session, Kept())

    async def _read(self, session: int) -> Kept:
        await self._arrive()
        return self.disk.sessions.get(session, Kept())

    async def _arrive(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise StorageFailed("the log is closed")

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[Stored]:
        rows = (await self._read(session)).rows
        start = bisect_right(rows, since, key=_seq)
        page: list[Stored] = []
        for row in rows[start : start + limit]:
            max_bytes -= len(row.body)
            if page and max_bytes < 0:
                break
            page.append(row)
        return page

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
        for row in reversed(self._outlines()):
            if len(page) < wanted.limit and _matches(row, wanted):
                inbox = map(decode_queued, self._kept(row.id).inbox.values())
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
        in_turn = {row.id for row in self._outlines() if row.turn}
        return sorted(in_turn.union(session for session, kept in self.disk.sessions.items() if kept.inbox))

    async def open_sessions(self) -> int:
        await self._arrive()
        return sum(row.state != "closed" for row in self._outlines())

    async def output(self, session: int, ref: str, offset: int, limit: int) -> bytes | None:
        readable = ref in (await self._read(session)).outputs
        return self.disk.outputs[ref][offset : offset + limit] if readable else None

    async def search(self, query: str, *, before: int | None = None, limit: int = 50) -> list[Hit]:
        await self._arrive()
        agents = {row.id: row.agent for row in self._outlines()}
        rows = [
            Row(row.offset, session, row.seq, row.body, agents.get(session, ""))
            for session, kept in self.disk.sessions.items()
            for row in kept.rows
            if before is None or row.offset < before
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

    async def aclose(self) -> None:
        """Finish what was submitted. The disk keeps it."""
        self._commit()
        self._closed = True
        await trio.lowlevel.checkpoint()

    def _ticks(self) -> dict[int, Tick]:
        """Those of all schedules, by number."""
        return {number: tick for ledger in self.disk.ledgers.values() for number, tick in ledger.items()}

    def _outlines(self) -> list[Outline]:
        """Oldest first."""
        kept = sorted(self.disk.sessions.items())
        return [outline.decode(session.outline) for _, session in kept if session.outline]


def _matches(row: Outline, wanted: Filter) -> bool:
    return (
        (row.state == wanted.state if wanted.state else wanted.include_closed or row.state != "closed")
        and (wanted.agent is None or row.agent == wanted.agent)
        and (wanted.before is None or row.id < wanted.before)
    )
