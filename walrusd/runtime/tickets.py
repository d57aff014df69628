"""A ticket: what one who sent a message holds until the turn that it became has ended."""

import trio

from walrus_protocol.events import Done
from walrus_protocol.methods import TurnResult
from walrus_protocol.problems import Problem
from walrusd.runtime.bus import Fact, Feed, Item, Passing, Reader


class Ticket:
    """Settled once: by the turn's `done`, or by a Problem where no `done` can be recorded now."""

    def __init__(self, session: int, digest: bytes = b"") -> None:
        self.session = session
        self.digest = digest
        self.position = 0
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
        self._expected = 0
        self._unclaimed: list[Reader] = []
        self._claimed: list[Reader] = []

    def enter(self, position: int) -> None:
        """Its message is in the inbox, as the one at `position`."""
        self.position = position
        self.accepted.set()

    def start(self, turn: int, first_seq: int, seq: int, feed: Feed) -> None:
        """Its message is in the log, as `seq`, in this turn."""
        self.turn = turn
        self.first_seq = first_seq
        self.since = seq - 1
        # Opened here and not when the listeners run next: a quick model may have spoken by then.
        self._unclaimed = [feed.reader(self.since) for _ in range(self._expected)]
        self.accepted.set()
        self.started.set()

    def expect_listener(self, feed: Feed) -> None:
        """`listen` will be called; until then nothing that is said may be missed."""
        if self.started.is_set():
            self._unclaimed.append(feed.reader(self.since))
        else:
            self._expected += 1

    async def listen(self, feed: Feed) -> Reader:
        """A reader on the turn from its first event on, once it has begun. Raises Problem where it will not."""
        if not self.started.is_set() and not self._expected:
            self._expected += 1
        await self.started.wait()
        if self.turn is None:
            await self.outcome()
        reader = self._unclaimed.pop() if self._unclaimed else feed.reader(self.since)
        self._claimed.append(reader)
        if self.settled.is_set():
            reader.end()
        return reader

    def owns(self, item: Item) -> bool:
        """Whether it is of the turn itself: others' messages and later turns are for those who watch the session."""
        match item:
            case Fact(seq=seq):
                return self.result is None or seq <= self.result.last_seq
            case Passing(event=event, position=position):
                return event.turn == self.turn and (self.result is None or position < self.result.last_seq)

    def all_read(self, reader: Reader) -> bool:
        """Whether the turn has ended, and the reader is past its end."""
        return self.result is not None and reader.cursor >= self.result.last_seq

    def finish(self, result: TurnResult) -> None:
        self.result = result
        self._settle()

    def fail(self, problem: Problem) -> None:
        self.problem = problem
        self._settle()

    def _settle(self) -> None:
        for reader in self._unclaimed:
            reader.close()
        for reader in self._claimed:
            reader.end()
        self.accepted.set()
        self.started.set()
        self.settled.set()

    async def outcome(self) -> TurnResult:
        """How the turn ended, once its `done` is durable. Raises Problem where that cannot be said now."""
        await self.settled.wait()
        if refused := self.problem:
            # A new one for each waiter: an exception raised in two tasks would grow one traceback from both.
            raise Problem(refused.kind, refused.message, refused.hint, **refused.data)
        assert self.result is not None, "a settled ticket has a result or a problem"
        return self.result


def result_of(done: Done, session: int, first_seq: int, last_seq: int) -> TurnResult:
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
