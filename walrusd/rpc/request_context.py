"""One request on its way to its handler: what the handler may use."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import trio
from msgspec import Struct

from walrus_config.schema import Config
from walrus_protocol.events import AnyLiveEvent, encode
from walrus_protocol.messages import RequestId, encode_chunk, encode_event
from walrus_protocol.methods.daemon import ProviderStatus, ReloadResult
from walrusd.export_import.importer import Importer
from walrusd.host.process_stats import read_process_stats
from walrusd.observability.metrics import Gauges, Metrics
from walrusd.retention.collector import RetentionCollector
from walrusd.rpc.outbox import Outbox
from walrusd.rpc.request_order import OrderTicket
from walrusd.rpc.uploads import Uploads
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.streams.fanout import Subscription
from walrusd.runtime.streams.items import LiveEvent, StreamItem
from walrusd.schedule.scheduler import Scheduler


class DaemonServices(Struct, frozen=True, kw_only=True):
    """What all handlers share: the runtime, and what the daemon knows of itself."""

    runtime: Runtime
    importer: Importer
    config: Callable[[], Config]
    """What is in force."""
    version: str
    socket: str
    uptime_s: Callable[[], float]
    """Seconds since the daemon was ready to serve."""
    metrics: Metrics
    provider_statuses: Callable[[], tuple[ProviderStatus, ...]]
    connection_count: Callable[[], int]
    warnings: Callable[[], tuple[str, ...]]
    scheduler: Scheduler
    reload: Callable[[], Awaitable[ReloadResult]]
    """Raises Problem."""
    retention: RetentionCollector
    request_stop: Callable[[], None]
    """Ask the daemon to stop, as a signal would."""

    async def read_gauges(self) -> Gauges:
        """Raises StorageFailed."""
        runtime, sizes = self.runtime, self.runtime.log.file_sizes()
        sessions_open = await runtime.log.open_session_count()
        used = await trio.to_thread.run_sync(read_process_stats)
        return Gauges(
            uptime_s=self.uptime_s(),
            sessions_open=sessions_open,
            sessions_live=len(runtime.session_cache),
            sessions_running=runtime.running_turns,
            connections=self.connection_count(),
            rss_bytes=used.rss_bytes,
            fds=used.fds,
            tasks=trio.lowlevel.current_statistics().tasks_living,
            threads=used.threads,
            children=used.children,
            db_bytes=sizes.db_bytes,
            wal_bytes=sizes.wal_bytes,
        )


class RequestContext(Struct, frozen=True):
    """A request's id and the way back to who asked."""

    id: RequestId
    services: DaemonServices
    outbox: Outbox
    uploads: Uploads
    order_ticket: OrderTicket

    @asynccontextmanager
    async def serialized(self) -> AsyncIterator[None]:
        """Within: what must happen in the order in which the requests were sent, and no longer than that."""
        await self.order_ticket.wait_previous()
        try:
            yield
        finally:
            self.order_ticket.release()

    async def forward_events(self, subscription: Subscription, is_wanted: Callable[[StreamItem], bool]) -> bool:
        """Send what a reader has next, as far as it is wanted; False when it was ended and has nothing left.

        A page of the log is read only when the one before it is on its way, whichever request of the connection it
        was for: else a thousand attachments that nobody reads would hold a page each.
        """
        subscription.try_send_direct = partial(self._send_direct, is_wanted)
        async with self.outbox.paging_lock if subscription.has_pending else nullcontext():
            items = await subscription.next_batch()
            subscription.try_send_direct = None  # what is said while these wait for room comes behind them
            await self._enqueue_events([item for item in items if is_wanted(item)])
        return bool(items)

    def _send_direct(self, is_wanted: Callable[[StreamItem], bool], live_event: LiveEvent) -> bool:
        """A token on its way, past the task that would be woken for it: a third of what the daemon does for one."""
        return not is_wanted(live_event) or self.outbox.try_send_direct(encode_event(self.id, live_event.wire))

    async def _enqueue_events(self, items: Sequence[StreamItem]) -> None:
        """Events, in order, each when there is room for it."""
        for item in items:
            if self.outbox.is_full:
                await self.outbox.wait_capacity()
            self.outbox.enqueue(encode_event(self.id, item.wire))
        self.outbox.flush_now()

    async def send_live_event(self, event: AnyLiveEvent) -> None:
        await self.outbox.wait_capacity()
        self.outbox.enqueue(encode_event(self.id, encode(event)))
        self.outbox.flush_now()

    async def send_chunk(self, data: str) -> None:
        """The next piece of a document, when there is room for it."""
        await self.outbox.wait_capacity()
        self.outbox.enqueue(encode_chunk(self.id, data))
        self.outbox.flush_now()
