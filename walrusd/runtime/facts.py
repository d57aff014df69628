"""The daemon's own facts, ticks and reloads: numbered here and nowhere else, and durable when `record` returns."""

from collections.abc import Sequence

import trio

from walrus_protocol.events import DaemonFact, Tick, encode
from walrusd.store.log import DAEMON, Log, Schedule, Write


class DaemonFacts:
    """The one writer of facts that belong to no session. One write is under way at a time."""

    def __init__(self, log: Log, last_tick: int, last_seq: int) -> None:
        self._log = log
        self._last_tick = last_tick
        self._last_seq = last_seq
        self._door = trio.Lock()

    @classmethod
    async def open(cls, log: Log) -> "DaemonFacts":
        return cls(log, *await log.last_of_daemon())

    def next_tick(self) -> int:
        """The number of a new row of the ledger."""
        self._last_tick += 1
        return self._last_tick

    async def record(self, *facts: DaemonFact, ticks: Sequence[Tick] = (), schedule: Schedule | None = None) -> None:
        """Write facts, rows of the ledger and a schedule in one transaction. The wait for it cannot be cancelled.

        Raises StorageFull and StorageFailed, with nothing written.
        """
        async with self._door:
            settled = trio.Event()
            failures: list[Exception] = []

            def committed(_: int) -> None:
                settled.set()

            def failed(error: Exception) -> None:
                failures.append(error)
                settled.set()

            self._log.submit(
                Write(
                    session=DAEMON,
                    bodies=[encode(fact) for fact in facts],
                    first_seq=self._last_seq + 1,
                    ticks=ticks,
                    schedule=schedule,
                    committed=committed,
                    failed=failed,
                )
            )
            # The owner of the wait is the store, whose every write has an outcome.
            with trio.CancelScope(shield=True):
                await settled.wait()
            if failures:
                raise failures[0]
            self._last_seq += len(facts)
