"""The results that clients of the runtime got in a scenario, and the checks against the log."""

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
from walrusd.store.contract import Log
from walrusd.store.tables.inbox import InboxEntry


class ExpectedSend(Struct, kw_only=True):
    """One send. Its text begins with the number of the session, and is unique except for repeats of a key."""

    session: int
    text: str
    key: str | None
    when_busy: WhenBusy
    sent_at: int
    answered_at: int | None = None
    accepted: bool | None = None
    """None if the client received no answer, so that it may or may not have been accepted."""
    last_seq: int = 0
    """The last seq of the session when the send was accepted."""
    result: TurnResult | None = None


class Expectations:
    """All expectations of a scenario. A logical clock orders sends that did not overlap."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.sends: list[ExpectedSend] = []
        self.sessions: list[int] = []
        self.expired_at: dict[int, int] = {}
        """The time when it was known that the session had expired, by session."""
        self.reported_missing: set[int] = set()
        """Sessions for which a request was refused as session_not_found."""
        self.documents: list[ExportedSession] = []
        self.subscribers: list[Subscriber] = []
        self.closed_at: dict[int, int] = {}
        """The time when a close was accepted, by session."""
        self.interrupted_turns: list[tuple[int, int]] = []
        self.history_requests = HistoryRequests()
        self.effects: list[str] = []
        self.crashes = 0
        self._unchecked_imports: dict[int, ExportedSession] = {}
        """The documents of imported sessions that were not compared with them yet."""
        self._text_by_key: dict[tuple[int, str], str] = {}
        """The text that was sent with a key, by imported session and key."""
        self._session_by_key: dict[str, int] = {}
        self._time = 0

    @property
    def existing_sessions(self) -> list[int]:
        return [session for session in self.sessions if session not in self.expired_at]

    def pick_session(self, number: int) -> int:
        """Returns one of the existing sessions, or the one that expired last."""
        candidates = [*self.existing_sessions, *list(self.expired_at)[-1:]]
        return candidates[number % len(candidates)]

    def note_expired(self, sessions: Iterable[int]) -> None:
        """Notes that these sessions are known to have expired."""
        for session in sessions:
            self.expired_at.setdefault(session, self.next_time())

    def next_time(self) -> int:
        """Advances the logical clock, and returns its time."""
        self._time += 1
        return self._time

    def note_created(self, session: int, key: str | None) -> None:
        """Notes a session that a request created; a repeated key must return the session created first."""
        if key is not None and key in self._session_by_key:
            if self._session_by_key[key] == session:
                return
            assert self._session_by_key[key] in self.archive.expired, "a key creates one session"
        assert session not in self.sessions, "an id is used only once"
        self.sessions.append(session)
        if key is not None:
            self._session_by_key[key] = session

    def expect_send(self, session: int, operation: Send) -> ExpectedSend:
        """Returns the expectation of a send that is about to start, with its text."""
        sent_at = self.next_time()
        text = self._text_by_key.get((session, operation.key or ""), f"{session} {operation.key or sent_at}")
        if operation.other and operation.key:
            text += " other"
        send = ExpectedSend(
            session=session, text=text, key=operation.key, when_busy=operation.when_busy, sent_at=sent_at
        )
        self.sends.append(send)
        return send

    def note_imported(self, session: int, document: ExportedSession) -> None:
        """Notes an imported session: everything sent to the exported one counts as sent to this one."""
        self.note_created(session, key=None)
        self._unchecked_imports[session] = document
        now = self.next_time()
        log = self.archive.logs[document.session][: document.last_seq]
        for message in log:
            if isinstance(message, UserMessage) and is_from_client(message):
                text = plain_text(message.content)
                send = ExpectedSend(session=session, text=text, key=message.key, when_busy="queue", sent_at=now)
                send.accepted, send.answered_at = True, now
                self.sends.append(send)
                if message.key is not None:
                    self._text_by_key[session, message.key] = text
        if isinstance(log[-1], SessionClosed):
            self.closed_at[session] = self.next_time()

    def note_accepted(self, send: ExpectedSend, last_seq: int) -> None:
        """Notes that a send was accepted; a closed session accepts only a repeat of a key."""
        send.accepted, send.answered_at, send.last_seq = True, self.next_time(), last_seq
        closed = self.closed_at.get(send.session)
        if closed is not None and send.sent_at > closed:
            repeats = [other for other in self.sends if other is not send and _same_key(other, send)]
            assert any(repeat.sent_at < closed and repeat.accepted is not False for repeat in repeats), (
                "a closed session refuses"
            )

    def check_all(self, contents: StoreContents, histories: HistoryModel, prompts: Sequence[RecordedPrompt]) -> None:
        """Checks all expectations against everything that was ever durable."""
        self.note_expired(self.archive.expired & {*self.sessions})
        assert self.reported_missing <= self.archive.expired, "a session that has not expired is found"
        assert {*self.existing_sessions} <= contents.rows.keys()
        for session in self.expired_at.keys() & self.archive.logs.keys():
            assert isinstance(self.archive.logs[session][-1], SessionClosed), "only closed sessions expire"
        for stored in contents.sessions.values():
            histories.check(stored.state)
        for session in self.sessions:
            self.check_session(session, self.archive.logs[session], contents.inboxes.get(session, ()))
        self.history_requests.check(self.archive, histories, prompts)
        for subscriber in self.subscribers:
            subscriber.check(self.archive)

    async def check_exports(self, log: Log) -> None:
        """Checks exported documents and imported sessions; everything must be idle."""
        for document in self.documents:
            document.check(self.archive)
        for session in self._unchecked_imports.keys() - self.expired_at.keys():
            await self._unchecked_imports[session].check_import(session, self.archive, log)
        self._unchecked_imports.clear()

    def check_session(self, session: int, log: Sequence[AnySessionEvent], inbox: Sequence[InboxEntry]) -> None:
        """Checks the log and the inbox of a session against the answers that its clients received."""
        sends = [send for send in self.sends if send.session == session]
        messages = [
            (seq, event) for seq, event in enumerate(log, 1) if isinstance(event, UserMessage) and is_from_client(event)
        ]
        texts = [plain_text(event.content) for _, event in messages]
        texts += [plain_text(entry.content) for entry in inbox if entry.kind != "close"]
        self._check_exactly_once(sends, texts)
        self._check_order(
            [send for send in sends if send.key is None], {text: place for place, text in enumerate(texts)}
        )
        self._check_interrupting_sends(
            [send for send in sends if send.key is None],
            {plain_text(event.content): seq for seq, event in messages},
        )
        for send in sends:
            if result := send.result:
                self._check_result(send, result, log)
        for turn in (turn for interrupted, turn in self.interrupted_turns if interrupted == session):
            done = next(event for event in log if isinstance(event, Done) and event.turn == turn)
            assert done.stop_reason == "interrupted"
            assert any(isinstance(event, InterruptRequested) and event.turn == turn for event in log)
        check_turns(log)

    def _check_exactly_once(self, sends: Sequence[ExpectedSend], recorded_texts: Sequence[str]) -> None:
        counted = Counter(recorded_texts)
        assert set(counted) <= {send.text for send in sends}, "every message in the log was sent"
        for text in {send.text for send in sends}:
            outcomes = {send.accepted for send in sends if send.text == text}
            if True in outcomes:
                assert counted[text] == 1, f"accepted, so recorded once: {text}"
            elif None in outcomes:
                assert counted[text] <= 1, f"unanswered, so recorded at most once: {text}"
            else:
                assert counted[text] == 0, f"refused, so not recorded: {text}"
        for key in {send.key for send in sends} - {None}:
            texts = {send.text for send in sends if send.key == key}
            assert sum(counted[text] for text in texts) <= 1, "a key is used for one message"

    def _check_order(self, sends: Sequence[ExpectedSend], place: dict[str, int]) -> None:
        """Checks that messages are in order of acceptance, except those that interrupt or steer."""
        accepted = [send for send in sends if send.accepted and send.when_busy != "steer"]
        for first in accepted:
            for second in accepted:
                earlier = first.answered_at is not None and first.answered_at < second.sent_at
                if earlier and second.when_busy in {"queue", "reject"}:
                    assert place[first.text] < place[second.text], f"{second.text} came after {first.text}"

    def _check_interrupting_sends(self, sends: Sequence[ExpectedSend], seqs: dict[str, int]) -> None:
        """Checks that an interrupting message goes to the head: at most one just opened turn precedes it."""
        for interrupting in sends:
            if interrupting.when_busy != "interrupt" or not interrupting.accepted or interrupting.text not in seqs:
                continue
            before = [
                send.text
                for send in sends
                if send.when_busy in {"queue", "reject"}
                and interrupting.last_seq < seqs.get(send.text, 0) < seqs[interrupting.text]
            ]
            assert len(before) <= 1, f"{interrupting.text} waited for {before}"

    def _check_result(self, send: ExpectedSend, result: TurnResult, log: Sequence[AnySessionEvent]) -> None:
        done = log[result.last_seq - 1]
        assert isinstance(done, Done)
        assert result == make_turn_result(done, send.session, result.first_seq, result.last_seq)
        turn = log[result.first_seq - 1 : result.last_seq]
        assert {event.turn for event in turn} == {result.turn}
        assert send.text in {plain_text(event.content) for event in turn if isinstance(event, UserMessage)}
        assert [event for event in turn if isinstance(event, Done)] == [done]

    def check_repeats(self) -> None:
        """Checks that every send with the same key has the same result."""
        results: dict[tuple[int, str], TurnResult] = {}
        for send in self.sends:
            if send.key is not None and send.result is not None:
                first = results.setdefault((send.session, send.key), send.result)
                assert send.result == first, "a repeat gives the first result"

    def check_effects(self) -> None:
        """Checks that no tool ran twice, and none without its intent in the log."""
        events = [event for log in self.archive.native_logs() for event in log]
        started = [event.call_id for event in events if isinstance(event, ToolStarted)]
        assert max(Counter(self.effects).values(), default=1) == 1
        assert set(self.effects) <= set(started)
        assert max(Counter(started).values(), default=1) <= MAX_CALL_RUNS
        bugs = [event for event in events if isinstance(event, Done) and event.error and event.error.kind == "internal"]
        assert len(bugs) <= self.crashes, f"a turn crashed without an injected crash: {bugs}"


def _same_key(one: ExpectedSend, other: ExpectedSend) -> bool:
    return one.key is not None and (one.session, one.key) == (other.session, other.key)
