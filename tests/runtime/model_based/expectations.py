"""What clients were promised, kept beside the runtime, and compared with what the log says."""

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from tests.runtime.model_based.archive import Archive
from tests.runtime.model_based.export_import_checks import ExportedSession
from tests.runtime.model_based.fork_rewind_checks import HistoryRequests
from tests.runtime.model_based.history_model import HistoryModel
from tests.runtime.model_based.operations import Send
from tests.runtime.model_based.scripted_model import RecordedPrompt
from tests.runtime.model_based.store_contents import StoreContents
from tests.runtime.model_based.subscriber import Subscriber
from tests.runtime.model_based.turn_checks import check_turns, is_from_client
from walrus_protocol.content import WhenBusy, plain_text
from walrus_protocol.events import AnySessionEvent, Done, InterruptRequested, SessionClosed, ToolStarted, UserMessage
from walrus_protocol.methods import TurnResult
from walrusd.runtime.turns.turn_handle import make_turn_result
from walrusd.session.recovery import MAX_CALL_RUNS
from walrusd.store.contract import InboxEntry, Log


class ExpectedSend(Struct, kw_only=True):
    """One send. Its text begins with the session's number, and is no other's but for repeats of a key."""

    session: int
    text: str
    key: str | None
    when_busy: WhenBusy
    sent_at: int
    answered_at: int | None = None
    accepted: bool | None = None
    """None: nobody was told; it may have been, or not."""
    last_seq: int = 0
    """Of its session when it was accepted."""
    result: TurnResult | None = None


class Expectations:
    """All of a story's. `now` counts what happened, so that of two sends one is known to be the earlier, or neither."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.sends: list[ExpectedSend] = []
        self.sessions: list[int] = []
        self.expired_at: dict[int, int] = {}
        """When it was known of a session that it has expired."""
        self.reported_missing: set[int] = set()
        """Sessions of which somebody was told that there is none."""
        self.documents: list[ExportedSession] = []
        self.subscribers: list[Subscriber] = []
        self.closed_at: dict[int, int] = {}
        """When a close of the session had been promised."""
        self.interrupted_turns: list[tuple[int, int]] = []
        self.history_requests = HistoryRequests()
        self.effects: list[str] = []
        self.crashes = 0
        self._unchecked_imports: dict[int, ExportedSession] = {}
        """Sessions that were made of a document, and have not been compared with it."""
        self._text_by_key: dict[tuple[int, str], str] = {}
        """What was sent with the keys of imported sessions."""
        self._session_by_key: dict[str, int] = {}
        self._time = 0

    @property
    def existing_sessions(self) -> list[int]:
        return [session for session in self.sessions if session not in self.expired_at]

    def pick_session(self, number: int) -> int:
        """One of those there are, or the one that went last."""
        some = [*self.existing_sessions, *list(self.expired_at)[-1:]]
        return some[number % len(some)]

    def note_expired(self, sessions: Iterable[int]) -> None:
        for session in sessions:
            self.expired_at.setdefault(session, self.next_time())

    def next_time(self) -> int:
        self._time += 1
        return self._time

    def note_created(self, session: int, key: str | None) -> None:
        if key is not None and key in self._session_by_key:
            if self._session_by_key[key] == session:
                return
            assert self._session_by_key[key] in self.archive.expired, "a key makes one session"
        assert session not in self.sessions, "no id is given twice"
        self.sessions.append(session)
        if key is not None:
            self._session_by_key[key] = session

    def expect_send(self, session: int, operation: Send) -> ExpectedSend:
        called = self.next_time()
        text = self._text_by_key.get((session, operation.key or ""), f"{session} {operation.key or called}")
        if operation.other and operation.key:
            text += " other"
        claim = ExpectedSend(
            session=session, text=text, key=operation.key, when_busy=operation.when_busy, sent_at=called
        )
        self.sends.append(claim)
        return claim

    def note_imported(self, session: int, document: ExportedSession) -> None:
        """All that was sent to the session that it was is as though it had been sent to this one."""
        self.note_created(session, key=None)
        self._unchecked_imports[session] = document
        now = self.next_time()
        log = self.archive.logs[document.session][: document.last_seq]
        for message in log:
            if isinstance(message, UserMessage) and is_from_client(message):
                text = plain_text(message.content)
                claim = ExpectedSend(session=session, text=text, key=message.key, when_busy="queue", sent_at=now)
                claim.accepted, claim.answered_at = True, now
                self.sends.append(claim)
                if message.key is not None:
                    self._text_by_key[session, message.key] = text
        if isinstance(log[-1], SessionClosed):
            self.closed_at[session] = self.next_time()

    def note_accepted(self, send: ExpectedSend, last_seq: int) -> None:
        send.accepted, send.answered_at, send.last_seq = True, self.next_time(), last_seq
        closed = self.closed_at.get(send.session)
        if closed is not None and send.sent_at > closed:
            twins = [twin for twin in self.sends if twin is not send and _same_key(twin, send)]
            assert any(twin.sent_at < closed and twin.accepted is not False for twin in twins), (
                "a closed session refuses"
            )

    def check_all(self, contents: StoreContents, histories: HistoryModel, prompts: Sequence[RecordedPrompt]) -> None:
        """What all were told, against all that there ever was."""
        self.note_expired(self.archive.expired & {*self.sessions})
        assert self.reported_missing <= self.archive.expired, "what has not expired is found"
        assert {*self.existing_sessions} <= contents.rows.keys()
        for session in self.expired_at.keys() & self.archive.logs.keys():
            assert isinstance(self.archive.logs[session][-1], SessionClosed), "only what is closed expires"
        for folded in contents.sessions.values():
            histories.check(folded.state)
        for session in self.sessions:
            self.check_session(session, self.archive.logs[session], contents.inboxes.get(session, ()))
        self.history_requests.check(self.archive, histories, prompts)
        for subscriber in self.subscribers:
            subscriber.check(self.archive)

    async def check_exports(self, log: Log) -> None:
        """Where all is at rest."""
        for document in self.documents:
            document.check(self.archive)
        for session in self._unchecked_imports.keys() - self.expired_at.keys():
            await self._unchecked_imports[session].check_import(session, self.archive, log)
        self._unchecked_imports.clear()

    def check_session(self, session: int, log: Sequence[AnySessionEvent], inbox: Sequence[InboxEntry]) -> None:
        """That the log of a session, and what waits beside it, are what its clients were told."""
        sends = [claim for claim in self.sends if claim.session == session]
        heard = [
            (n, event) for n, event in enumerate(log, 1) if isinstance(event, UserMessage) and is_from_client(event)
        ]
        places = [plain_text(event.content) for _, event in heard]
        places += [plain_text(queued.content) for queued in inbox if queued.kind != "close"]
        self._check_exactly_once(sends, places)
        self._check_order([claim for claim in sends if claim.key is None], {text: n for n, text in enumerate(places)})
        self._check_interrupting_sends(
            [c for c in sends if c.key is None], {plain_text(event.content): seq for seq, event in heard}
        )
        for claim in sends:
            if result := claim.result:
                self._check_result(claim, result, log)
        for turn in (turn for where, turn in self.interrupted_turns if where == session):
            done = next(event for event in log if isinstance(event, Done) and event.turn == turn)
            assert done.stop_reason == "interrupted"
            assert any(isinstance(event, InterruptRequested) and event.turn == turn for event in log)
        check_turns(log)

    def _check_exactly_once(self, sends: Sequence[ExpectedSend], recorded_texts: Sequence[str]) -> None:
        counted = Counter(recorded_texts)
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

    def _check_order(self, sends: Sequence[ExpectedSend], place: dict[str, int]) -> None:
        """What was accepted before another was sent stands before it, where both wait at the end of the queue."""
        there = [claim for claim in sends if claim.accepted and claim.when_busy != "steer"]
        for first in there:
            for second in there:
                earlier = first.answered_at is not None and first.answered_at < second.sent_at
                if earlier and second.when_busy in {"queue", "reject"}:
                    assert place[first.text] < place[second.text], f"{second.text} came after {first.text}"

    def _check_interrupting_sends(self, sends: Sequence[ExpectedSend], seqs: dict[str, int]) -> None:
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

    def _check_result(self, send: ExpectedSend, result: TurnResult, log: Sequence[AnySessionEvent]) -> None:
        done = log[result.last_seq - 1]
        assert isinstance(done, Done)
        assert result == make_turn_result(done, send.session, result.first_seq, result.last_seq)
        turn = log[result.first_seq - 1 : result.last_seq]
        assert {event.turn for event in turn} == {result.turn}
        assert send.text in {plain_text(event.content) for event in turn if isinstance(event, UserMessage)}
        assert [event for event in turn if isinstance(event, Done)] == [done]

    def check_repeats(self) -> None:
        results: dict[tuple[int, str], TurnResult] = {}
        for claim in self.sends:
            if claim.key is not None and claim.result is not None:
                first = results.setdefault((claim.session, claim.key), claim.result)
                assert claim.result == first, "a repeat gives the first result"

    def check_effects(self) -> None:
        """No tool ran twice, and none without its intent in the log."""
        events = [event for log in self.archive.native_logs() for event in log]
        started = [event.call_id for event in events if isinstance(event, ToolStarted)]
        assert max(Counter(self.effects).values(), default=1) == 1
        assert set(self.effects) <= set(started)
        assert max(Counter(started).values(), default=1) <= MAX_CALL_RUNS
        bugs = [event for event in events if isinstance(event, Done) and event.error and event.error.kind == "internal"]
        assert len(bugs) <= self.crashes, f"a turn crashed without an order: {bugs}"


def _same_key(one: ExpectedSend, other: ExpectedSend) -> bool:
    return one.key is not None and (one.session, one.key) == (other.session, other.key)
