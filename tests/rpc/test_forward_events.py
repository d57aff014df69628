"""Tests of forwarding events through a full outbox: they stay in order, also with live events."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
import trio.testing

from tests.fakes.memory_log import MemoryLog
from walrus_protocol.events import TextDelta, UserMessage, encode
from walrusd.rpc.outbox import MAX_FRAMES, Outbox
from walrusd.rpc.request_context import OrderTicket, Principal, RequestContext
from walrusd.rpc.uploads import Uploads
from walrusd.runtime.streams.fanout import PAGE_ROWS
from walrusd.runtime.streams.global_stream import WINDOW_BYTES, GlobalStream
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent
from walrusd.store.contract import StreamFilter

EVENT_COUNT = MAX_FRAMES + PAGE_ROWS
"""Number of events: so many that the outbox cannot take the whole last page."""
TEXT = "x" * (WINDOW_BYTES // EVENT_COUNT // 2)
"""The text of an event: few fit into the socket's buffer, and all into the stream's window."""


@pytest.fixture
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    server, client = socket.socketpair()
    with server, client:
        server.setblocking(False)
        client.setblocking(False)
        yield server, client


def publish_message(global_stream: GlobalStream, offset: int) -> None:
    event = UserMessage(ts=1.0, session=1, turn=1, content=TEXT)
    global_stream.publish(LoggedEvent(seq=offset, offset=offset, body=encode(event), decoded=event), "ada")


def drain(client: socket.socket, outbox: Outbox, received: bytearray) -> None:
    """Reads everything that is queued and sent; no other task runs meanwhile."""
    while outbox.has_pending:
        received += client.recv(1 << 20)
        outbox.flush_now()
    with suppress(BlockingIOError):
        while True:
            received += client.recv(1 << 20)


def event_types(received: bytearray) -> list[str]:
    """Returns the types of the received events, in order."""
    types, start = [], 0
    while start < len(received):
        end = start + 4 + int.from_bytes(received[start : start + 4])
        types.append(json.loads(received[start + 4 : end])["params"]["event"]["type"])
        start = end
    return types


async def test_a_live_event_does_not_overtake_logged_events_that_wait_for_capacity(
    socket_pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = socket_pair
    stream, received = GlobalStream(MemoryLog(), lambda: 1.0), bytearray()
    outbox = Outbox(server.fileno())
    context = RequestContext(1, Principal("client", uid=0, pid=1), outbox, Uploads("."), OrderTicket())
    with stream.subscribe(None, StreamFilter(), announce_caught_up=True) as subscription:

        async def forward() -> None:
            while await context.forward_events(subscription, lambda _: True):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(forward)
            await trio.testing.wait_all_tasks_blocked()
            for offset in range(1, EVENT_COUNT + 1):
                publish_message(stream, offset)
            await trio.testing.wait_all_tasks_blocked()
            assert (outbox.is_full, subscription.has_pending) == (True, False)
            drain(client, outbox, received)
            stream.publish_live(
                LiveEvent(EVENT_COUNT, TextDelta(ts=1.0, session=1, turn=1, text="!", round=1, at=0)), "ada"
            )
            await trio.testing.wait_all_tasks_blocked()
            drain(client, outbox, received)
            nursery.cancel_scope.cancel()
    assert event_types(received) == ["state_changed", *["user_message"] * EVENT_COUNT, "text_delta"]
