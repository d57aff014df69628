"""One request on its way to its handler: what the handler may use."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import trio
from msgspec import Struct

from walrus_config.schema import Config
from walrus_protocol.events import Live, encode
from walrus_protocol.housekeeping import ProviderStatus, Reloaded
from walrus_protocol.messages import RequestId, encode_chunk, encode_event
from walrusd.host.usage import usage
from walrusd.metrics import Gauges, Metrics
from walrusd.rpc.order import Place
from walrusd.rpc.outbox import Outbox
from walrusd.rpc.uploads import Uploads
from walrusd.runtime.bus import Item, Passing, Reader
from walrusd.runtime.runtime import Runtime
from walrusd.schedule.schedules import Schedules
from walrusd.space import Space


class House(Struct, frozen=True, kw_only=True):
    """What all handlers share: the runtime, and what the daemon knows of itself."""

    runtime: Runtime
    config: Callable[[], Config]
    """What is in force."""
    version: str
    socket: str
    uptime: Callable[[], float]
    """Seconds since the daemon was ready to serve."""
    metrics: Metrics
    providers: Callable[[], tuple[ProviderStatus, ...]]
    connections: Callable[[], int]
    warnings: Callable[[], tuple[str, ...]]
    schedules: Schedules
    reload: Callable[[], Awaitable[Reloaded]]
    """Raises Problem."""
    space: Space
    stop: Callable[[], None]
    """Ask the daemon to stop, as a signal would."""

    async def gauges(self) -> Gauges:
        """Raises StorageFailed."""
        runtime, sizes = self.runtime, self.runtime.log.sizes()
        sessions_open = await runtime.log.open_sessions()
        used = await trio.to_thread.run_sync(usage)
        return Gauges(
            uptime_s=self.uptime(),
            sessions_open=sessions_open,
            sessions_live=len(runtime.sessions_in_memory),
            sessions_running=runtime.running,
            connections=self.connections(),
            rss_bytes=used.rss_bytes,
            fds=used.fds,
            tasks=trio.lowlevel.current_statistics().tasks_living,
            threads=used.threads,
            children=used.children,
            db_bytes=sizes.db_bytes,
            wal_bytes=sizes.wal_bytes,
        )


class Call(Struct, frozen=True):
    """A request's id and the way back to who asked."""

    id: RequestId
    house: House
    outbox: Outbox
    uploads: Uploads
    place: Place

    @asynccontextmanager
    async def in_order(self) -> AsyncIterator[None]:
        """Within: what must happen in the order in which the requests were sent, and no longer than that."""
        await self.place.reached()
        try:
            yield
        finally:
            self.place.leave()

    async def relay(self, reader: Reader, wanted: Callable[[Item], bool]) -> bool:
        """Send what a reader has next, as far as it is wanted; False when it was ended and has nothing left.

        A page of the log is read only when the one before it is on its way, whichever request of the connection it
        was for: else a thousand attachments that nobody reads would hold a page each.
        """
        reader.at_once = partial(self._at_once, wanted)
        async with self.outbox.paging if reader.behind else nullcontext():
            items = await reader.batch()
            reader.at_once = None  # what is said while these wait for room comes behind them
            await self._send([item for item in items if wanted(item)])
        return bool(items)

    def _at_once(self, wanted: Callable[[Item], bool], passing: Passing) -> bool:
        """A token on its way, past the task that would be woken for it: a third of what the daemon does for one."""
        return not wanted(passing) or self.outbox.pass_at_once(encode_event(self.id, passing.wire))

    async def _send(self, items: Sequence[Item]) -> None:
        """Events, in order, each when there is room for it."""
        for item in items:
            if self.outbox.full:
                await self.outbox.room()
            self.outbox.put(encode_event(self.id, item.wire))
        self.outbox.push()

    async def say(self, event: Live) -> None:
        await self.outbox.room()
        self.outbox.put(encode_event(self.id, encode(event)))
        self.outbox.push()

    async def chunk(self, data: str) -> None:
        """The next piece of a document, when there is room for it."""
        await self.outbox.room()
        self.outbox.put(encode_chunk(self.id, data))
        self.outbox.push()
