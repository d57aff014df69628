"""Records daemon events such as ticks and reloads. Only this module numbers them."""

from collections.abc import Callable, Sequence

import trio

from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import AnyDaemonEvent, encode
from walrusd.store.contract import Log, Write
from walrusd.store.tables.table import Mutation
from walrusd.store.tables.tick import read_last_tick_and_seq
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
        return cls(log, publish, *await log.read(read_last_tick_and_seq))

    def next_tick(self) -> int:
        """Returns the number of the next new row of the tick ledger."""
        self._last_tick += 1
        return self._last_tick

    async def record(self, *events: AnyDaemonEvent, mutations: Sequence[Mutation] = ()) -> None:
        """Writes daemon events and other changes in one transaction, durable on return.

        The wait cannot be cancelled. Raises StorageFull and StorageFailed, with nothing written.
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
                    mutations=mutations,
                    committed=committed,
                    failed=outcome.failed,
                )
            )
            await outcome.wait_shielded()
            self._last_seq += len(events)
