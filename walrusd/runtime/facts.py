"""The daemon's own facts, ticks and reloads: numbered here and nowhere else, and durable when `record` returns."""

from collections.abc import Callable, Sequence

import trio

from walrus_protocol.events import DaemonFact, Tick, encode
from walrusd.store.log import DAEMON, Log, Schedule, Seen, Write
from walrusd.store.settling import Settling

Publish = Callable[[int, bytes, DaemonFact], None]
"""Told of a fact with its offset and its row, in the order of the offsets."""


class DaemonFacts:
    """The one writer of facts that belong to no session. One write is under way at a time."""

    def __init__(self, log: Log, publish: Publish, last_tick: int, last_seq: int) -> None:
        self._log = log
        self._publish = publish
        self._last_tick = last_tick
        self._last_seq = last_seq
        self._door = trio.Lock()

    @classmethod
    async def open(cls, log: Log, publish: Publish = lambda *_: None) -> "DaemonFacts":
        return cls(log, publish, *await log.last_of_daemon())

    def next_tick(self) -> int:
        """The number of a new row of the ledger."""
        self._last_tick += 1
        return self._last_tick

    async def record(
        self,
        *facts: DaemonFact,
        ticks: Sequence[Tick] = (),
        schedule: Schedule | None = None,
        expired: Sequence[int] = (),
        released: Sequence[tuple[int, str]] = (),
        seen: Seen | None = None,
    ) -> None:
        """Write facts, rows of the ledger and a schedule in one transaction. The wait for it cannot be cancelled.

        With it go sessions that expire, and outputs that sessions no longer have, and a session that is there from
        then on.

        Raises StorageFull and StorageFailed, with nothing written.
        """
        async with self._door:
            outcome, bodies = Settling(), [encode(fact) for fact in facts]

            def committed(offset: int) -> None:
                for place, (body, fact) in enumerate(zip(bodies, facts, strict=True), offset):
                    self._publish(place, body, fact)
                outcome.answered()

            self._log.submit(
                Write(
                    session=DAEMON,
                    bodies=bodies,
                    first_seq=self._last_seq + 1,
                    ticks=ticks,
                    schedule=schedule,
                    expired=expired,
                    released=released,
                    seen=seen,
                    committed=committed,
                    failed=outcome.failed,
                )
            )
            await outcome.wait_out()
            self._last_seq += len(facts)
