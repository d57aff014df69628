"""What clients were promised, kept beside the runtime, and compared with what the log says."""

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from tests.runtime.machine_archive import Archive
from tests.runtime.machine_branches import Branches
from tests.runtime.machine_carrier import Document
from tests.runtime.machine_facts import Facts
from tests.runtime.machine_orders import Send
from tests.runtime.machine_past import Pasts
from tests.runtime.machine_puppet import Shown
from tests.runtime.machine_subscriber import Subscriber
from tests.runtime.machine_turns import by_a_client, check_turns
from walrus_protocol.content import WhenBusy, plain_text
from walrus_protocol.events import Done, Durable, InterruptRequested, SessionClosed, ToolStarted, UserMessage
from walrus_protocol.methods import TurnResult
from walrusd.runtime.tickets import result_of
from walrusd.session.mend import RUNS
from walrusd.store.log import Log, Queued


class Claim(Struct, kw_only=True):
    """One send. Its text begins with the session's number, and is no other's but for repeats of a key."""

    session: int
    text: str
    key: str | None
    when_busy: WhenBusy
    called: int
    returned: int | None = None
    accepted: bool | None = None
    """None: nobody was told; it may have been, or not."""
    last_seq: int = 0
    """Of its session when it was accepted."""
    result: TurnResult | None = None


class Claims:
    """All of a story's. `now` counts what happened, so that of two sends one is known to be the earlier, or neither."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.sends: list[Claim] = []
        self.sessions: list[int] = []
        self.gone: dict[int, int] = {}
        """When it was known of a session that it has expired."""
        self.missed: set[int] = set()
        """Sessions of which somebody was told that there is none."""
        self.documents: list[Document] = []
        self.subscribers: list[Subscriber] = []
        self.closed: dict[int, int] = {}
        """When a close of the session had been promised."""
        self.interrupted: list[tuple[int, int]] = []
        self.branches = Branches()
        self.effects: list[str] = []
        self.crashes = 0
        self._imports: dict[int, Document] = {}
        """Sessions that were made of a document, and have not been compared with it."""
        self._texts: dict[tuple[int, str], str] = {}
        """What was sent with the keys of imported sessions."""
        self._created: dict[str, int] = {}
        self._now = 0

    @property
    def living(self) -> list[int]:
        return [session for session in self.sessions if session not in self.gone]

    def session(self, number: int) -> int:
        """One of those there are, or the one that went last."""
        some = [*self.living, *list(self.gone)[-1:]]
        return some[number % len(some)]

    def went(self, sessions: Iterable[int]) -> None:
        for session in sessions:
            self.gone.setdefault(session, self.tick())

    def tick(self) -> int:
        self._now += 1
        return self._now

    def created(self, session: int, key: str | None) -> None:
        if key is not None and key in self._created:
            if self._created[key] == session:
                return
            assert self._created[key] in self.archive.expired, "a key makes one session"
        assert session not in self.sessions, "no id is given twice"
        self.sessions.append(session)
        if key is not None:
            self._created[key] = session

    def claim(self, session: int, order: Send) -> Claim:
        called = self.tick()
        text = self._texts.get((session, order.key or ""), f"{session} {order.key or called}")
        if order.other and order.key:
            text += " other"
        claim = Claim(session=session, text=text, key=order.key, when_busy=order.when_busy, called=called)
        self.sends.append(claim)
        return claim

    def imported(self, session: int, document: Document) -> None:
        """All that was sent to the session that it was is as though it had been sent to this one."""
        self.created(session, key=None)
        self._imports[session] = document
        now = self.tick()
        log = self.archive.logs[document.session][: document.last_seq]
        for message in log:
            if isinstance(message, UserMessage) and by_a_client(message):
                text = plain_text(message.content)
                claim = Claim(session=session, text=text, key=message.key, when_busy="queue", called=now)
                claim.accepted, claim.returned = True, now
                self.sends.append(claim)
                if message.key is not None:
                    self._texts[session, message.key] = text
        if isinstance(log[-1], SessionClosed):
            self.closed[session] = self.tick()

    def accepted(self, claim: Claim, last_seq: int) -> None:
        claim.accepted, claim.returned, claim.last_seq = True, self.tick(), last_seq
        closed = self.closed.get(claim.session)
        if closed is not None and claim.called > closed:
            twins = [twin for twin in self.sends if twin is not claim and _same_key(twin, claim)]
            assert any(twin.called < closed and twin.accepted is not False for twin in twins), (
                "a closed session refuses"
            )

    def check_all(self, facts: Facts, pasts: Pasts, shown: Sequence[Shown]) -> None:
        """What all were told, against all that there ever was."""
        self.went(self.archive.expired & {*self.sessions})
        assert self.missed <= self.archive.expired, "what has not expired is found"
        assert {*self.living} <= facts.rows.keys()
        for session in self.gone.keys() & self.archive.logs.keys():
            assert isinstance(self.archive.logs[session][-1], SessionClosed), "only what is closed expires"
        for folded in facts.sessions.values():
            pasts.check(folded.outline)
        for session in self.sessions:
            self.check(session, self.archive.logs[session], facts.inboxes.get(session, ()))
        self.branches.check(self.archive, pasts, shown)
        for subscriber in self.subscribers:
            subscriber.check(self.archive)

    async def check_carried(self, log: Log) -> None:
        """Where all is at rest."""
        for document in self.documents:
            document.check(self.archive)
        for session in self._imports.keys() - self.gone.keys():
            await self._imports[session].check_import(session, self.archive, log)
        self._imports.clear()

    def check(self, session: int, log: Sequence[Durable], inbox: Sequence[Queued]) -> None:
        """That the log of a session, and what waits beside it, are what its clients were told."""
        sends = [claim for claim in self.sends if claim.session == session]
        heard = [(n, event) for n, event in enumerate(log, 1) if isinstance(event, UserMessage) and by_a_client(event)]
        places = [plain_text(event.content) for _, event in heard]
        places += [plain_text(queued.content) for queued in inbox if queued.kind != "close"]
        self._exactly_once(sends, places)
        self._in_order([claim for claim in sends if claim.key is None], {text: n for n, text in enumerate(places)})
        self._overtaken([c for c in sends if c.key is None], {plain_text(event.content): seq for seq, event in heard})
        for claim in sends:
            if result := claim.result:
                self._result(claim, result, log)
        for turn in (turn for where, turn in self.interrupted if where == session):
            done = next(event for event in log if isinstance(event, Done) and event.turn == turn)
            assert done.stop_reason == "interrupted"
            assert any(isinstance(event, InterruptRequested) and event.turn == turn for event in log)
        check_turns(log)

    def _exactly_once(self, sends: Sequence[Claim], places: Sequence[str]) -> None:
        counted = Counter(places)
        assert set(counted) <= {claim.text for claim in sends}, "nobody sent that"
        for text in {claim.text for claim in sends}:
            fates = {claim.accepted for claim in sends if claim.text == text}
            if True in fates:
                assert counted[text] == 1, f"accepted, so there once: {text}"
            elif None in fates:
                assert counted[text] <= 1, f"not known, so there at most once: {text}"
            else:
                assert counted[text] == 0, f"refused, so not there: {text}"
        for key in {claim.key for claim in sends} - {None}:
            texts = {claim.text for claim in sends if claim.key == key}
            assert sum(counted[text] for text in texts) <= 1, "a key is good for one message"

    def _in_order(self, sends: Sequence[Claim], place: dict[str, int]) -> None:
        """What was accepted before another was sent stands before it, where both wait at the end of the queue."""
        there = [claim for claim in sends if claim.accepted and claim.when_busy != "steer"]
        for first in there:
            for second in there:
                earlier = first.returned is not None and first.returned < second.called
                if earlier and second.when_busy in {"queue", "reject"}:
                    assert place[first.text] < place[second.text], f"{second.text} came after {first.text}"

    def _overtaken(self, sends: Sequence[Claim], seqs: dict[str, int]) -> None:
        """One that interrupts goes to the head: at most the one whose turn just opened is still before it."""
        for urgent in sends:
            if urgent.when_busy != "interrupt" or not urgent.accepted or urgent.text not in seqs:
                continue
            before = [
                claim.text
                for claim in sends
                if claim.when_busy in {"queue", "reject"}
                and urgent.last_seq < seqs.get(claim.text, 0) < seqs[urgent.text]
            ]
            assert len(before) <= 1, f"{urgent.text} waited for {before}"

    def _result(self, claim: Claim, result: TurnResult, log: Sequence[Durable]) -> None:
        done = log[result.last_seq - 1]
        assert isinstance(done, Done)
        assert result == result_of(done, claim.session, result.first_seq, result.last_seq)
        turn = log[result.first_seq - 1 : result.last_seq]
        assert {event.turn for event in turn} == {result.turn}
        assert claim.text in {plain_text(event.content) for event in turn if isinstance(event, UserMessage)}
        assert [event for event in turn if isinstance(event, Done)] == [done]

    def check_repeats(self) -> None:
        results: dict[tuple[int, str], TurnResult] = {}
        for claim in self.sends:
            if claim.key is not None and claim.result is not None:
                first = results.setdefault((claim.session, claim.key), claim.result)
                assert claim.result == first, "a repeat gives the first result"

    def check_effects(self) -> None:
        """No tool ran twice, and none without its intent in the log."""
        events = [event for log in self.archive.native() for event in log]
        started = [event.call_id for event in events if isinstance(event, ToolStarted)]
        assert max(Counter(self.effects).values(), default=1) == 1
        assert set(self.effects) <= set(started)
        assert max(Counter(started).values(), default=1) <= RUNS
        bugs = [event for event in events if isinstance(event, Done) and event.error and event.error.kind == "internal"]
        assert len(bugs) <= self.crashes, f"a turn crashed without an order: {bugs}"


def _same_key(one: Claim, other: Claim) -> bool:
    return one.key is not None and (one.session, one.key) == (other.session, other.key)
