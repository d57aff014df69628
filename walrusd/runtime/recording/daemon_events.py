"""Records daemon events such as ticks and reloads. Only this module numbers them."""

from collections.abc import Callable, Sequence

import trio

from walrus_protocol.events import AnyDaemonEvent, Tick, encode
from walrusd.store.contract import DAEMON_SESSION, ImportedSession, Log, ScheduleRow, Write
from walrusd.store.writer_task import WriteOutcome

PublishDaemonEvent = Callable[[int, bytes, AnyDaemonEvent], None]
"""Called with the offset, the row and the daemon event, in the order of the offsets."""


class DaemonRecorder:
    """The only writer of daemon events. One write is under way at a time."""

    def __init__(self, log: Log, publish: PublishDaemonEvent, last_tick: int, last_seq: int) -> None:
        self._log = log
        self._publish = publish
        self._last_tick = last_tick
        self._last_seq = last_seq
        self._write_lock = trio.Lock()

    @classmethod
    async def open(cls, log: Log, publish: PublishDaemonEvent = lambda *_: None) -> "DaemonRecorder":
        """Returns a recorder that continues the numbers of the log."""
        return cls(log, publish, *await log.last_tick_and_seq())

    def next_tick(self) -> int:
        """Returns the number of the next new row of the tick ledger."""
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
        """Writes daemon events, ticks and a schedule in one transaction. The wait for it cannot be cancelled.

        The same transaction deletes `expired_sessions`, detaches `released_outputs` (session, ref) from their
        sessions, and makes the `imported` session visible. Everything is durable on return.

        Raises StorageFull and StorageFailed, with nothing written.
        """
        async with self._write_lock:
            outcome, bodies = WriteOutcome(), [encode(event) for event in events]

            def committed(offset: int) -> None:
                for event_offset, (body, event) in enumerate(zip(bodies, events, strict=True), offset):
                    self._publish(event_offset, body, event)
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
