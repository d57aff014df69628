"""What the twin keeps: the tables as dicts, written by the same rules, as long as somebody holds them."""

from bisect import bisect_right, insort
from collections.abc import Collection, Iterator
from operator import attrgetter
from typing import Literal

from msgspec import Struct, field

from walrus_protocol.events import Tick
from walrusd.session import outline
from walrusd.session.outline import Outline
from walrusd.store.coding import decode_tick, encode
from walrusd.store.keeping import Claim, Closed, Room, Swept
from walrusd.store.log import DAEMON, DAEMON_FACTS, LEDGER, SESSIONS_EXPIRED, Sent, Span, StorageFailed, Stored, Write

by_seq = attrgetter("seq")


class Kept(Struct):
    """What is durable of one session, encoded as on a real disk."""

    outline: bytes | None = None
    closed_at: float = 0.0
    """Where it is closed."""
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
        self.remains: set[int] = set()
        self.forks: dict[int, tuple[int, int]] = {}
        self.created: dict[str, tuple[int, bytes]] = {}
        self.outputs: dict[str, bytes] = {}
        self.ledgers: dict[str, dict[int, Tick]] = {}
        self.schedules: dict[str, bytes] = {}
        self.offset = 0
        self.given = 0
        self.written = 0
        """Bytes of bodies and outputs."""
        self.serves: object = None

    def kept(self, session: int) -> Kept:
        return self.sessions.setdefault(session, Kept())

    def outlines(self) -> list[Outline]:
        """Oldest first."""
        return [outline.decode(kept.outline) for _, kept in sorted(self.sessions.items()) if kept.outline]

    def refusal(self, write: Write) -> StorageFailed | None:
        """What SQLite finds by its unique indexes: a fact is never written twice."""
        kept = self.kept(write.session)
        places = [queued.place for queued in write.enqueue]
        known = {row.seq for row in kept.rows[bisect_right(kept.rows, write.first_seq - 1, key=by_seq) :]}
        if (
            known.intersection(range(write.first_seq, write.first_seq + len(write.bodies)))
            or len({*kept.inbox, *places}) < len(kept.inbox) + len(places)
            or (write.turn_opened and write.turn_opened[0] in kept.turns)
            or (write.created_with and write.created_with.key in self.created)
        ):
            return StorageFailed(f"session {write.session}: this was written before")
        return None

    def put(self, write: Write) -> None:
        kept = self.kept(write.session)
        self._put_events(kept, write)
        kept.inbox.update((queued.place, encode(queued)) for queued in write.enqueue)
        for place in write.dequeue:
            kept.inbox.pop(place, None)
        kept.sent.update((sent.key, sent) for sent in write.sent)
        if write.created_with:
            self.created[write.created_with.key] = write.session, write.created_with.digest
        self._put_turn(kept, write)
        if write.draft != "keep":
            kept.draft = None if write.draft == "drop" else encode(write.draft)
        if write.output:
            self.outputs.setdefault(write.output.ref, write.output.body)
            kept.outputs.add(write.output.ref)
            self.written += len(write.output.body)
        for tick in write.ticks:
            self._put_tick(decode_tick(encode(tick)))
        if write.schedule:
            self.schedules[write.schedule.name] = encode(write.schedule)
        self.remains.update(write.unseen)
        kept.turns.update((turn, Span(first, last)) for turn, first, last in write.spans)
        if seen := write.seen:
            self.kept(seen.outline.id).outline = outline.encode(seen.outline)
            self.kept(seen.outline.id).closed_at = seen.at
            self.forks.update((child, (parent, seq)) for child, parent, seq in seen.forks)
            self.remains.discard(seen.outline.id)
        for session in write.expired:
            self._expire(session)
        for session, ref in write.released:
            self.kept(session).outputs.discard(ref)

    def _put_events(self, kept: Kept, write: Write) -> None:
        for seq, body in enumerate(write.bodies, write.first_seq):
            self.offset += 1
            insort(kept.rows, Stored(seq, self.offset, body), key=by_seq)
            self.written += len(body)
        if write.session == DAEMON and write.bodies:
            end = bisect_right(kept.rows, kept.rows[-1].seq - DAEMON_FACTS, key=by_seq)
            kept.rows[:end] = [row for row in kept.rows[:end] if row.body.startswith(SESSIONS_EXPIRED)]
        if write.outline:
            kept.outline = outline.encode(write.outline)
            kept.closed_at = write.outline.updated_at
            if write.first_seq == 1 and (parent := write.outline.parent):
                self.forks.setdefault(write.session, (parent.session, parent.seq))

    def _put_tick(self, tick: Tick) -> None:
        ledger = self.ledgers.setdefault(tick.schedule, {})
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

    def _expire(self, session: int) -> None:
        self.sessions[session] = Kept(rows=self.kept(session).rows)
        self.created = {key: made for key, made in self.created.items() if made[0] != session}
        self.remains.add(session)

    def sweep(self, importing: Collection[int]) -> Swept:
        events, again = 0, True
        while again:
            again = False
            for session in self.remains.difference(importing):
                rows, kept = self.kept(session).rows, self._read_up_to(session)
                if self.kept(session).outline is None and (not kept or (rows and rows[-1].seq > kept)):
                    end = bisect_right(rows, kept, key=by_seq)
                    events, again = events + len(rows) - end, True
                    del rows[end:]
                    if not kept:
                        self.remains.discard(session)
                        self.forks.pop(session, None)
                        del self.sessions[session]
        unclaimed = self.outputs.keys() - {ref for kept in self.sessions.values() for ref in kept.outputs}
        for ref in unclaimed:
            del self.outputs[ref]
        return Swept(events, len(unclaimed))

    def _read_up_to(self, session: int) -> int:
        """How far a session is still read by those that go on from it."""
        listed = {row.id for row in self.outlines()} | self.remains
        return max(
            (seq for child, (parent, seq) in self.forks.items() if parent == session and child in listed), default=0
        )

    def room(self) -> Room:
        bodies = [row.body for kept in self.sessions.values() for row in kept.rows]
        return Room(used_bytes=sum(map(len, [*bodies, *self.outputs.values()])), free_bytes=0)

    def closed(self, before: float) -> Iterator[Closed]:
        rows = [(self.kept(row.id).closed_at, row.id, row) for row in self.outlines() if row.state == "closed"]
        for closed_at, _, row in sorted(found for found in rows if found[0] < before):
            read = max((seq for parent, seq in self.forks.values() if parent == row.id), default=0)
            size = sum(len(event.body) for event in self.kept(row.id).rows if event.seq > read)
            events = max(0, row.last_seq - read)
            yield Closed(session=row.id, closed_at=closed_at, turns=row.turns, events=events, bytes=size)

    def claims(self, of: Literal["closed", "all"]) -> Iterator[Claim]:
        listed = {row.id: row.state == "closed" for row in self.outlines()}
        if of == "closed":
            others = {s: kept.outputs for s, kept in self.sessions.items() if not listed.get(s)}
            needed = {ref for refs in others.values() for ref in refs}
            closed = [(row.session, self.kept(row.session).outputs - needed) for row in self.closed(LATER)]
            pairs = [(session, ref) for session, refs in closed for ref in sorted(refs)]
        else:
            pairs = [(s, ref) for ref in self.outputs for s in listed if ref in self.kept(s).outputs]
        known: set[str] = set()
        for session, ref in pairs:
            yield Claim(session=session, ref=ref, bytes=0 if ref in known else len(self.outputs[ref]))
            known.add(ref)


LATER = float("inf")
