"""The daemon's own facts, ticks and reloads: numbered here and nowhere else, and durable when `record` returns."""

from collections.abc import Callable, Sequence

import trio

from walrus_protocol.events import AnyDaemonEvent, Tick, encode
from walrusd.store.contract import DAEMON_SESSION, ImportedSession, Log, ScheduleRow, Write
from walrusd.store.write_outcome import WriteOutcome

PublishDaemonEvent = Callable[[int, bytes, AnyDaemonEvent], None]
"""Told of a fact with its offset and its row, in the order of the offsets."""


class DaemonRecorder:
    """The one writer of facts that belong to no session. One write is under way at a time."""

    def __init__(self, log: Log, publish: PublishDaemonEvent, last_tick: int, last_seq: int) -> None:
        self._log = log
        self._publish = publish
        self._last_tick = last_tick
        self._last_seq = last_seq
        self._write_lock = trio.Lock()

    @classmethod
    async def open(cls, log: Log, publish: PublishDaemonEvent = lambda *_: None) -> "DaemonRecorder":
        return cls(log, publish, *await log.last_tick_and_seq())

    def next_tick(self) -> int:
        """The number of a new row of the ledger."""
        self._last_tick += 1
        return self._last_tick

    async def record(
        self,
        *events: AnyDaemonEvent,
        ticks: Sequence[Tick] = (),
        schedule: ScheduleRow | None = None,
        expired_sessions: Sequence[int] = (),
        released_outputs: Sequence[tuple[int, str]] = (),
        imported: ImportedSession | None = None,
    ) -> None:
        """Write facts, rows of the ledger and a schedule in one transaction. The wait for it cannot be cancelled.

        With it go sessions that expire, and outputs that sessions no longer have, and a session that is there from
        then on.

        Raises StorageFull and StorageFailed, with nothing written.
        """
        async with self._write_lock:
            outcome, bodies = WriteOutcome(), [encode(fact) for fact in events]

            def committed(offset: int) -> None:
                for place, (body, fact) in enumerate(zip(bodies, events, strict=True), offset):
                    self._publish(place, body, fact)
                outcome.succeeded()

            self._log.submit(
                Write(
                    session=DAEMON_SESSION,
                    bodies=bodies,
                    first_seq=self._last_seq + 1,
                    ticks=ticks,
                    schedule=schedule,
                    expired_sessions=expired_sessions,
                    released_outputs=released_outputs,
                    imported=imported,
                    committed=committed,
                    failed=outcome.failed,
                )
            )
            await outcome.wait_shielded()
            self._last_seq += len(events)
