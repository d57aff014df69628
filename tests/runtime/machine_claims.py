"""What clients were promised, kept beside the runtime, and compared with what the log says."""

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from tests.runtime.machine_branches import Branches
from tests.runtime.machine_turns import by_a_client, check_turns
from walrus_protocol.content import WhenBusy, plain_text
from walrus_protocol.events import Done, Durable, InterruptRequested, ToolStarted, UserMessage
from walrus_protocol.methods import TurnResult
from walrusd.runtime.tickets import result_of
from walrusd.session.mend import RUNS
from walrusd.store.log import Queued


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

    def __init__(self) -> None:
        self.sends: list[Claim] = []
        self.sessions: list[int] = []
        self.closed: dict[int, int] = {}
        """When a close of the session had been promised."""
        self.interrupted: list[tuple[int, int]] = []
        self.branches = Branches()
        self.effects: list[str] = []
        self.crashes = 0
        self._created: dict[str, int] = {}
        self._now = 0

    def tick(self) -> int:
        self._now += 1
        return self._now

    def created(self, session: int, key: str | None) -> None:
        if key is not None and key in self._created:
            assert self._created[key] == session, "a key makes one session"
            return
        assert session not in self.sessions, "no id is given twice"
        self.sessions.append(session)
        if key is not None:
            self._created[key] = session

    def accepted(self, claim: Claim, last_seq: int) -> None:
        claim.accepted, claim.returned, claim.last_seq = True, self.tick(), last_seq
        closed = self.closed.get(claim.session)
        if closed is not None and claim.called > closed:
            twins = [twin for twin in self.sends if twin is not claim and _same_key(twin, claim)]
            assert any(twin.called < closed and twin.accepted is not False for twin in twins), (
                "a closed session refuses"
            )

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

    def check_effects(self, logs: Sequence[Sequence[Durable]]) -> None:
        """No tool ran twice, and none without its intent in the log."""
        events = [event for log in logs for event in log]
        started = [event.call_id for event in events if isinstance(event, ToolStarted)]
        assert max(Counter(self.effects).values(), default=1) == 1
        assert set(self.effects) <= set(started)
        assert max(Counter(started).values(), default=1) <= RUNS
        bugs = [event for event in events if isinstance(event, Done) and event.error and event.error.kind == "internal"]
        assert len(bugs) <= self.crashes, f"a turn crashed without an order: {bugs}"


def _same_key(one: Claim, other: Claim) -> bool:
    return one.key is not None and (one.session, one.key) == (other.session, other.key)
