"""A ticket: what one who sent a message holds until the turn that it became has ended."""

import trio

from walrus_protocol.events import Done
from walrus_protocol.methods import TurnResult
from walrus_protocol.problems import Problem
from walrusd.runtime.streams.fanout import SessionStream, Subscription
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent, StreamItem


class TurnHandle:
    """Settled once: by the turn's `done`, or by a Problem where no `done` can be recorded now."""

    def __init__(self, session: int, digest: bytes = b"") -> None:
        self.session = session
        self.digest = digest
        self.queue_position = 0
        """How many messages stood before it when it was queued, itself included; 0: its turn began at once."""
        self.turn: int | None = None
        self.first_seq = 0
        self.since = 0
        """The seq before its own user message; a steer lands in the middle of a turn."""
        self.result: TurnResult | None = None
        self.problem: Problem | None = None
        self.accepted = trio.Event()
        self.started = trio.Event()
        self.settled = trio.Event()
        self._expected_subscribers = 0
        self._unclaimed_subscriptions: list[Subscription] = []
        self._claimed_subscriptions: list[Subscription] = []

    def mark_queued(self, queue_position: int) -> None:
        """Its message is in the inbox, as the one at `position`."""
        self.queue_position = queue_position
        self.accepted.set()

    def mark_started(self, turn: int, first_seq: int, seq: int, stream: SessionStream) -> None:
        """Its message is in the log, as `seq`, in this turn."""
        self.turn = turn
        self.first_seq = first_seq
        self.since = seq - 1
        # Opened here and not when the listeners run next: a quick model may have spoken by then.
        self._unclaimed_subscriptions = [stream.subscribe(self.since) for _ in range(self._expected_subscribers)]
        self.accepted.set()
        self.started.set()

    def expect_subscriber(self, stream: SessionStream) -> None:
        """`listen` will be called; until then nothing that is said may be missed."""
        if self.started.is_set():
            self._unclaimed_subscriptions.append(stream.subscribe(self.since))
        else:
            self._expected_subscribers += 1

    async def subscribe(self, stream: SessionStream) -> Subscription:
        """A reader on the turn from its first event on, once it has begun. Raises Problem where it will not."""
        if not self.started.is_set() and not self._expected_subscribers:
            self._expected_subscribers += 1
        await self.started.wait()
        if self.turn is None:
            await self.wait_result()
        reader = self._unclaimed_subscriptions.pop() if self._unclaimed_subscriptions else stream.subscribe(self.since)
        self._claimed_subscriptions.append(reader)
        if self.settled.is_set():
            reader.end()
        return reader

    def includes(self, item: StreamItem) -> bool:
        """Whether it is of the turn itself: others' messages and later turns are for those who watch the session."""
        match item:
            case LoggedEvent(seq=seq):
                return self.result is None or seq <= self.result.last_seq
            case LiveEvent(event=event, session_seq=position):
                return event.turn == self.turn and (self.result is None or position < self.result.last_seq)

    def is_at_end(self, subscription: Subscription) -> bool:
        """Whether the turn has ended, and the reader is past its end."""
        return self.result is not None and subscription.cursor >= self.result.last_seq

    def finish(self, result: TurnResult) -> None:
        self.result = result
        self._settle()

    def fail(self, problem: Problem) -> None:
        self.problem = problem
        self._settle()

    def _settle(self) -> None:
        for reader in self._unclaimed_subscriptions:
            reader.close()
        for reader in self._claimed_subscriptions:
            reader.end()
        self.accepted.set()
        self.started.set()
        self.settled.set()

    async def wait_result(self) -> TurnResult:
        """How the turn ended, once its `done` is durable. Raises Problem where that cannot be said now."""
        await self.settled.wait()
        if refused := self.problem:
            # A new one for each waiter: an exception raised in two tasks would grow one traceback from both.
            raise Problem(refused.kind, refused.message, refused.hint, **refused.data)
        assert self.result is not None, "a settled ticket has a result or a problem"
        return self.result


def make_turn_result(done: Done, session: int, first_seq: int, last_seq: int) -> TurnResult:
    """The result of the turn that `done` ended."""
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
