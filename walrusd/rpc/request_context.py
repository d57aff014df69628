"""The context of a request: who sends it, its place in the order of requests, and what its handler may use."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Literal, Self

import trio
from msgspec import Struct

from walrus_protocol.events import AnyLiveEvent, encode
from walrus_protocol.messages import RequestId, encode_chunk, encode_event
from walrusd.host.peer_credentials import is_descendant, read_peer_credentials
from walrusd.rpc.outbox import Outbox
from walrusd.rpc.uploads import Uploads
from walrusd.runtime.streams.fanout import Subscription
from walrusd.runtime.streams.items import LiveEvent, StreamItem


class Principal(Struct):
    """The process at the other end of a connection; daemon.hello sets `name`."""

    kind: Literal["client", "tool"]
    """`tool`: a process that descends from walrusd, thus from a tool."""
    uid: int
    pid: int
    name: str = ""
    """The name that a client gave itself. It may be wrong, so no permission depends on it."""

    @property
    def by(self) -> str:
        """The text in events that name who did something: `client` or `client:NAME`."""
        return f"{self.kind}:{self.name}" if self.name else self.kind


def read_principal(sock: trio.socket.SocketType) -> Principal:
    """Identifies the peer when it has connected."""
    peer = read_peer_credentials(sock)
    return Principal("tool" if is_descendant(peer.pid, os.getpid()) else "client", uid=peer.uid, pid=peer.pid)


class OrderTicket:
    """The place of a request in the order of its connection's requests for the same session or upload.

    Trio's tasks run in no order.
    """

    __slots__ = ("previous", "released")

    def __init__(self, previous: Self | None = None) -> None:
        self.previous = previous
        self.released = trio.Event()

    async def wait_previous(self) -> None:
        """Waits until all earlier tickets are released; a cancelled request may release its own out of order."""
        while self.previous:
            await self.previous.released.wait()
            self.previous = self.previous.previous

    def release(self) -> None:
        """Lets later requests continue: the ordered part of this one is done, or will not happen."""
        self.released.set()

    @property
    def is_blocking(self) -> bool:
        """Returns whether a later request would have to wait."""
        ticket: OrderTicket | None = self
        while ticket and ticket.released.is_set():
            ticket = ticket.previous
        return ticket is not None


class RequestContext(Struct, frozen=True):
    """One request: its id, and the principal, the outbox and the uploads of its connection."""

    id: RequestId
    principal: Principal
    outbox: Outbox
    uploads: Uploads
    order_ticket: OrderTicket

    @asynccontextmanager
    async def serialized(self) -> AsyncIterator[None]:
        """Runs its block after earlier requests for the same session or upload, and before later ones."""
        await self.order_ticket.wait_previous()
        try:
            yield
        finally:
            self.order_ticket.release()

    async def forward_events(self, subscription: Subscription, is_wanted: Callable[[StreamItem], bool]) -> bool:
        """Sends the next wanted items of a subscription; returns False if it was ended and has nothing left.

        A page of the log is read only when the previous page of the connection has been queued, for whichever request.
        Otherwise a thousand attachments that the client does not read would hold a page each.
        """
        subscription.try_send_direct = partial(self._send_direct, is_wanted)
        async with self.outbox.paging_lock if subscription.has_pending else nullcontext():
            items = await subscription.next_batch()
            subscription.try_send_direct = None  # live events that come while these wait must come after them
            await self._enqueue_events([item for item in items if is_wanted(item)])
        return bool(items)

    def _send_direct(self, is_wanted: Callable[[StreamItem], bool], live_event: LiveEvent) -> bool:
        """Sends a live event without waking the subscriber's task: that saves a third of the work for a token."""
        return not is_wanted(live_event) or self.outbox.try_send_direct(encode_event(self.id, live_event.wire))

    async def _enqueue_events(self, items: Sequence[StreamItem]) -> None:
        """Queues events in order, each when the outbox has capacity, and flushes them."""
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
        """Sends the next piece of a document when the outbox has capacity."""
        await self.outbox.wait_capacity()
        self.outbox.enqueue(encode_chunk(self.id, data))
        self.outbox.flush_now()
