"""The sessions that are held in memory: made, or folded from the log when somebody asks for them."""

from collections.abc import Callable
from weakref import WeakValueDictionary

import trio
from msgspec import Struct

from walrus_protocol.events import (
    AnyEvent,
    AssistantMessage,
    Done,
    Live,
    SessionCreated,
    StateChanged,
    TurnResumed,
)
from walrus_protocol.problems import Problem
from walrusd.ports import Clock
from walrusd.runtime.bus import PAGE, Fact, Feed, Now, Passing, Speaking
from walrusd.runtime.departures import Departures
from walrusd.runtime.drafts import Speech
from walrusd.runtime.everything import Everything
from walrusd.runtime.inherited import inherited
from walrusd.runtime.kept import Kept
from walrusd.runtime.record import Beside, Recorder, Recording
from walrusd.runtime.tickets import Ticket, result_of
from walrusd.runtime.told import readable, session_not_found, unreadable
from walrusd.runtime.weakly import weakly
from walrusd.session.history import History
from walrusd.session.mend import Draft, left_over
from walrusd.session.session import Session
from walrusd.session.states import Refused
from walrusd.store.log import Log, Queued, Sent

FORCE = "force"
"""The content of a queued close that waits for no turn."""


class Shared(Struct, frozen=True, kw_only=True):
    """What every session of a runtime is joined to."""

    log: Log
    clock: Clock
    see: Callable[[str, AnyEvent], None]
    """Shown every event of an agent's sessions. Does not raise."""
    broken: Callable[[BaseException], None]
    """Told when the state no longer is what the disk says; the runtime ends."""
    everything: Everything


class Opened(Struct, frozen=True):
    """A turn that was opened on acceptance, with a slot taken for it."""

    timeout_s: float | None


class LiveSession:
    """One session in memory: its fold, its recorder, its readers, and who waits for which of its turns.

    It lives as long as somebody holds it. Its parts know it only weakly: without a cycle it is gone, and its memory
    free, at the moment when the last holder lets it go.
    """

    def __init__(self, session: Session, shared: Shared, size: int = 0) -> None:
        self.session = session
        self.shared = shared
        self.size = size
        """Bytes of its log, and of what it inherits once that has been read."""
        self.feed = Feed(session.id, shared.log, session.outline.last_seq, weakly(self._now), shared.everything.crowd)
        self.recorder = Recorder(session, shared.log, shared.clock, weakly(self._publish), shared.broken)
        self._state = session.outline.state
        self._inheriting = trio.Lock()
        self.left_over: Draft | None = None
        """The round under way of a turn that an earlier process left open."""
        self.speech: Speech | None = None
        self.draft_under_way: Recording | None = None
        self.parked: trio.CancelScope | None = None
        """Its worker's wait for a slot."""
        self.scope: trio.CancelScope | None = None
        """The turn's, while it may be cancelled."""
        self.working = False
        """It has a worker."""
        self.handed: Opened | None = None
        """A turn that was opened for its worker while that was still at the one before."""
        self.claimed = False
        """Somebody is about to open a turn, or to close it."""
        self.entering = 0
        """Messages on their way into the inbox."""
        self.close_door = trio.Lock()
        """One close at a time: each looks at what the one before it has left to do."""
        self.close_entering = False
        self.last_place = 0
        self.first_place = 0
        self.suspended = False
        """Its worker waits for a store that can write again."""
        self.poke = trio.Event()
        """Set to make a suspended worker try the store again now."""
        self.keyed: dict[str, Ticket] = {}
        """Sends with a key that are not settled yet."""
        self.queued: dict[int, Ticket] = {}
        """Who waits for which inbox entry, by place."""
        self.waiting: list[Ticket] = []
        """Who waits for the open turn."""
        self.done: Done | None = None
        """How the last turn ended, if it did in this process."""

    @property
    def id(self) -> int:
        return self.session.id

    @property
    def inbox(self) -> list[Queued]:
        return self.recorder.inbox

    @property
    def messages_queued(self) -> int:
        return sum(queued.kind != "close" for queued in self.inbox)

    @property
    def busy(self) -> bool:
        """A message that comes now has to wait for another."""
        return self.claimed or self.session.turn is not None or self.entering > 0 or bool(self.inbox)

    @property
    def closing(self) -> bool:
        """Closed, or a close is accepted and waits for its turn."""
        return (
            self.close_entering
            or self.session.outline.state == "closed"
            or any(queued.kind == "close" for queued in self.inbox)
        )

    @property
    def interrupted(self) -> bool:
        """No turn is open, or it has been asked to stop."""
        turn = self.session.turn
        return turn is None or turn.interrupt is not None

    @property
    def forced(self) -> bool:
        """A close is accepted that ends queued messages unanswered."""
        return any(queued.kind == "close" and queued.content == FORCE for queued in self.inbox)

    @property
    def draft(self) -> Draft | None:
        return self.speech.draft() if self.speech else self.left_over

    async def history(self) -> History:
        """What the model sees. A fork reads what it inherits when it is first asked. Raises Problem, StorageFailed."""
        conversation = self.session.conversation
        if conversation.missing is not None:
            async with self._inheriting:
                if conversation.missing is not None:
                    messages, size = await inherited(self.shared.log, conversation.missing)
                    conversation.inherit(messages)
                    self.size += size
        return self.session.history

    def say(self, event: Live) -> None:
        """Pass a live event to the hook and to whoever listens."""
        agent, passing = self.session.outline.agent, Passing(self.feed.last_seq, event)
        self.shared.see(agent, event)
        self.feed.pass_on(passing)
        self.shared.everything.pass_on(passing, agent)

    def speaking(self) -> tuple[Speaking, ...]:
        """The reply under way, if there is one."""
        draft, agent, turn = self.draft, self.session.outline.agent, self.session.turn
        number = turn.number if turn else None
        return (Speaking(session=self.id, agent=agent, turn=number, draft=draft),) if draft else ()

    def _now(self) -> Now:
        turn, state = self.session.turn, self.session.outline.state or "idle"
        number = turn.number if turn else None
        return Now(ts=self.shared.clock(), session=self.id, state=state, turn=number, speaking=self.speaking())

    def _publish(self, fact: Fact) -> None:
        event, outline = fact.event, self.session.outline
        self.size += len(fact.body)
        state_before = self._state
        self._state = outline.state
        self.shared.see(outline.agent, event)
        if isinstance(event, AssistantMessage | TurnResumed):
            self.speech = self.left_over = None
        self.feed.publish(fact)
        self.shared.everything.publish(fact, outline.agent)
        if outline.state and outline.state != state_before:
            self.say(StateChanged(ts=event.ts, session=self.id, turn=event.turn, state=outline.state))
        if isinstance(event, Done):
            self._finish(event, fact.seq)

    def place(self, *, first: bool = False) -> int:
        """A new place in the inbox: behind all others, or before them."""
        if first:
            self.first_place -= 1
            return self.first_place
        self.last_place += 1
        return self.last_place

    def wait_for_turn(self) -> Ticket:
        """A ticket for the open turn."""
        turn = self.session.turn
        assert turn is not None, "asked only while a turn is open"
        ticket = Ticket(self.id)
        ticket.start(turn.number, turn.first_seq, turn.first_seq, self.feed)
        self.waiting.append(ticket)
        return ticket

    def taking(self, queued: Queued) -> Beside:
        """What moves an inbox entry into the log, with the user message recorded beside it."""
        ticket = self.queued[queued.place]

        def land() -> None:
            self.queued.pop(queued.place, None)
            self.land(ticket)

        sent = (Sent(key=queued.key, digest=ticket.digest),) if queued.key is not None else ()
        return Beside(dequeue=(queued.place,), sent=sent, applied=land)

    def land(self, ticket: Ticket) -> None:
        """The ticket's message has just become the last event of the log."""
        turn = self.session.turn
        assert turn is not None, "a recorded user message is in a turn"
        ticket.start(turn.number, turn.first_seq, self.session.outline.last_seq, self.feed)
        self.waiting.append(ticket)

    def _finish(self, done: Done, seq: int) -> None:
        self.speech = self.left_over = None
        self.done = done
        waiting, self.waiting = self.waiting, []
        for ticket in waiting:
            ticket.finish(result_of(done, self.id, ticket.first_seq, seq))
        self.forget_settled_keys()

    def refuse_waiting(self, problem: Problem) -> None:
        """Tell who waits for the open turn that its end cannot be told now."""
        waiting, self.waiting = self.waiting, []
        turn = self.session.turn
        for ticket in waiting:
            data = {**problem.data, "session": self.id, "turn": turn.number if turn else None}
            ticket.fail(Problem(problem.kind, problem.message, problem.hint, **data))
        self.forget_settled_keys()

    def refuse_all(self, problem: Problem) -> None:
        """Tell everyone who waits; what they sent stays where it is."""
        queued, self.queued = self.queued, {}
        for ticket in queued.values():
            ticket.fail(Problem(problem.kind, problem.message, problem.hint, session=self.id, turn=None))
        self.refuse_waiting(problem)

    def forget_settled_keys(self) -> None:
        """A settled send is found in the store from now on."""
        self.keyed = {key: ticket for key, ticket in self.keyed.items() if not ticket.settled.is_set()}


class Sessions:
    """All sessions by id. One that is not in memory is folded from its log, once, however many ask at a time.

    There is never a second one beside one that somebody still holds, so none need say when he is done with it.
    """

    def __init__(self, shared: Shared, kept: Kept) -> None:
        self._shared = shared
        self._kept = kept
        self._live: WeakValueDictionary[int, LiveSession] = WeakValueDictionary()
        self._loading: dict[int, trio.Event] = {}
        self.departures = Departures()

    def __len__(self) -> int:
        return len(self._live)

    def live(self) -> tuple[LiveSession, ...]:
        return tuple(self._live.values())

    def in_memory(self, session: int) -> LiveSession | None:
        return self._live.get(session)

    def at_rest(self, session: int) -> bool:
        """Whether nobody uses it; then it is in memory no more."""
        self._kept.forget(session)
        return session not in self._live and session not in self._loading

    async def create(self, created: SessionCreated, created_with: Sent | None = None) -> LiveSession:
        """A new session, durable. Raises StorageFailed."""
        live = LiveSession(Session(self._shared.log.next_session()), self._shared)
        while (loading := self._loading.get(live.id)) is not None:
            await loading.wait()  # by somebody who asks for it a moment too early
        self._loading[live.id] = trio.Event()  # it is listed a moment before this task goes on: who asks then, waits
        try:
            await live.recorder.record(created, beside=Beside(created_with=created_with))
            self._live[live.id] = live
        finally:
            self._loading.pop(live.id).set()
        self._kept.touch(live)
        return live

    async def get(self, session: int) -> LiveSession:
        """Raises Problem session_not_found."""
        while (live := self._live.get(session)) is None:
            await self.departures.settled(session)
            if (loading := self._loading.get(session)) is not None:
                await loading.wait()
                continue
            self._loading[session] = trio.Event()
            try:
                live = self._live[session] = await self._load(session)
            finally:
                self._loading.pop(session).set()
            break
        self._kept.touch(live)
        return live

    async def history(self, session: int) -> History:
        """What its model sees. Raises Problem and StorageFailed."""
        live = await self.get(session)
        history = await live.history()
        self._kept.touch(live)  # it may have grown by what it inherits
        return history

    async def _load(self, number: int) -> LiveSession:
        log = self._shared.log
        opening = await log.opening(number, PAGE)
        if opening is None:
            raise session_not_found(number)
        session, size, rows = Session(number), 0, opening.rows
        while rows:
            for row in rows:
                try:
                    session.apply(readable(number, row))
                except Refused as refused:
                    raise unreadable(number, row.seq, refused) from refused
                size += len(row.body)
            since = rows[-1].seq
            rows = await log.events(number, since, PAGE) if since < opening.last_seq else []
        live = LiveSession(session, self._shared, size)
        live.recorder.inbox = opening.inbox
        if live.inbox:
            live.first_place, live.last_place = live.inbox[0].place, live.inbox[-1].place
        if session.turn:
            live.left_over = left_over(session.turn, opening.draft)
        for position, queued in enumerate(live.inbox, 1):
            ticket = live.queued[queued.place] = Ticket(number)
            ticket.enter(position)
            if queued.key is not None and (sent := await log.sent(number, queued.key)):
                ticket.digest = sent.digest
                live.keyed[queued.key] = ticket
        return live
