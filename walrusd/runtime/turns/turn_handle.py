"""The handles of turns: the sender of a message waits for the result, or reads the turn's events."""

import trio

from walrus_protocol.events import Done
from walrus_protocol.methods import TurnResult
from walrus_protocol.problems import Problem
from walrusd.runtime.streams.fanout import SessionStream, Subscription
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, StreamItem
from walrusd.session.session import Session


class TurnHandle:
    """A turn as its sender sees it.

    It is settled once: by its `done`, or by a Problem if no `done` can be recorded now.
    """

    def __init__(self, session: int, digest: bytes = b"") -> None:
        self.session = session
        self.digest = digest
        self.queue_position = 0
        """The position in the inbox when it was queued, counted from 1; 0 if its turn began at once."""
        self.turn: int | None = None
        self.first_seq = 0
        self.since = 0
        """The seq before its own user message, which is in the middle of the turn for a steer."""
        self.result: TurnResult | None = None
        self.problem: Problem | None = None
        self.accepted = trio.Event()
        self.started = trio.Event()
        self.settled = trio.Event()
        self._expected_subscribers = 0
        self._unclaimed_subscriptions: list[Subscription] = []
        self._claimed_subscriptions: list[Subscription] = []

    def mark_queued(self, queue_position: int) -> None:
        """Marks the message as queued in the inbox, at this position."""
        self.queue_position = queue_position
        self.accepted.set()

    def mark_started(self, turn: int, first_seq: int, seq: int, stream: SessionStream) -> None:
        """Marks the message as logged, as event `seq` of this turn."""
        self.turn = turn
        self.first_seq = first_seq
        self.since = seq - 1
        # Subscribe now, not when the subscribers' tasks run next: a fast model may have sent chunks by then.
        self._unclaimed_subscriptions = [stream.subscribe(self.since) for _ in range(self._expected_subscribers)]
        self.accepted.set()
        self.started.set()

    def expect_subscriber(self, stream: SessionStream) -> None:
        """Announces a call of `subscribe`: no live event until then is missed."""
        if self.started.is_set():
            self._unclaimed_subscriptions.append(stream.subscribe(self.since))
        else:
            self._expected_subscribers += 1

    async def subscribe(self, stream: SessionStream) -> Subscription:
        """Waits until the turn has begun, and returns a subscription from its first event on.

        Raises Problem if the turn will not begin.
        """
        if not self.started.is_set() and not self._expected_subscribers:
            self._expected_subscribers += 1
        await self.started.wait()
        if self.turn is None:
            await self.wait_result()
        subscription = (
            self._unclaimed_subscriptions.pop() if self._unclaimed_subscriptions else stream.subscribe(self.since)
        )
        self._claimed_subscriptions.append(subscription)
        if self.settled.is_set():
            subscription.end()
        return subscription

    def includes(self, item: StreamItem) -> bool:
        """Returns whether the item belongs to this turn, and not to a later turn or to other messages."""
        match item:
            case LoggedEvent(seq=seq):
                return self.result is None or seq <= self.result.last_seq
            case LiveEvent(event=event, session_seq=seq):
                return event.turn == self.turn and (self.result is None or seq < self.result.last_seq)

    def is_at_end(self, subscription: Subscription) -> bool:
        """Returns whether the turn has ended and the subscription has read past its end."""
        return self.result is not None and subscription.cursor >= self.result.last_seq

    def finish(self, result: TurnResult) -> None:
        self.result = result
        self._settle()

    def fail(self, problem: Problem) -> None:
        self.problem = problem
        self._settle()

    def _settle(self) -> None:
        for subscription in self._unclaimed_subscriptions:
            subscription.close()
        for subscription in self._claimed_subscriptions:
            subscription.end()
        self.accepted.set()
        self.started.set()
        self.settled.set()

    async def wait_result(self) -> TurnResult:
        """Waits until the `done` of the turn is durable. Raises Problem if it cannot be recorded now."""
        await self.settled.wait()
        if problem := self.problem:
            # A new exception for each waiter: one raised in two tasks would collect the tracebacks of both.
            raise problem.with_data()
        assert self.result is not None, "a settled handle has a result or a problem"
        return self.result


def make_turn_result(done: Done, session: int, first_seq: int, last_seq: int) -> TurnResult:
    """Returns the result of the turn that `done` ended."""
    assert done.turn is not None, "a recorded done has its turn"
    return TurnResult(
        session=session,
        turn=done.turn,
        text=done.text,
        stop_reason=done.stop_reason,
        error=done.error,
        rounds=done.rounds,
        usage=done.usage,
        cost_usd=done.cost_usd,
        first_seq=first_seq,
        last_seq=last_seq,
    )


class TurnHandles:
    """The unsettled handles of one session."""

    def __init__(self, session: Session, stream: SessionStream) -> None:
        self.by_key: dict[str, TurnHandle] = {}
        """Handles of sends with a key."""
        self.by_place: dict[int, TurnHandle] = {}
        """Handles of queued messages, by their place in the inbox."""
        self._session = session
        self._stream = stream
        self._of_open_turn: list[TurnHandle] = []

    def join_open_turn(self, handle: TurnHandle | None = None) -> TurnHandle:
        """Binds the handle, or a new one, to the open turn from its first event on."""
        return self._bind(handle or TurnHandle(self._session.id), from_start=True)

    def bind_to_last_message(self, handle: TurnHandle) -> None:
        """Binds the handle to the open turn; its message has just become the last event of the log."""
        self._bind(handle, from_start=False)

    def _bind(self, handle: TurnHandle, *, from_start: bool) -> TurnHandle:
        turn = self._session.turn
        assert turn is not None, "called only while a turn is open"
        seq = turn.first_seq if from_start else self._session.state.last_seq
        handle.mark_started(turn.number, turn.first_seq, seq, self._stream)
        self._of_open_turn.append(handle)
        return handle

    def finish_turn(self, done: Done, seq: int) -> None:
        """Settles the handles of the turn that `done`, event `seq`, has ended."""
        handles, self._of_open_turn = self._of_open_turn, []
        for handle in handles:
            handle.finish(make_turn_result(done, self._session.id, handle.first_seq, seq))
        self.drop_settled_keys()

    def fail_turn(self, problem: Problem) -> None:
        """Fails the handles of the open turn, because its end cannot be recorded now."""
        turn = self._session.turn
        handles, self._of_open_turn = self._of_open_turn, []
        for handle in handles:
            handle.fail(problem.with_data(session=self._session.id, turn=turn.number if turn else None))
        self.drop_settled_keys()

    def fail_all(self, problem: Problem) -> None:
        """Fails the handles of the open turn and of queued messages.

        The messages stay in the inbox, with their handles: a later worker may take them.
        """
        for handle in self.by_place.values():
            handle.fail(problem.with_data(session=self._session.id, turn=None))
        self.fail_turn(problem)

    def drop_settled_keys(self) -> None:
        """Drops the handles of settled sends; a repeat of their key is answered from the store."""
        if self.by_key:
            self.by_key = {key: handle for key, handle in self.by_key.items() if not handle.settled.is_set()}
