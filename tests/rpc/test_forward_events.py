"""What a reader has next, on its way through an outbox that is full: in order, whoever comes in between."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

import pytest
import trio
import trio.testing

from walrus_protocol.events import TextDelta, UserMessage, encode
from walrusd.rpc.outbox import MAX_FRAMES, Outbox
from walrusd.rpc.request_context import DaemonServices, RequestContext
from walrusd.rpc.request_order import OrderTicket
from walrusd.rpc.uploads import Uploads
from walrusd.runtime.streams.fanout import PAGE_ROWS
from walrusd.runtime.streams.global_stream import WINDOW_BYTES, GlobalStream
from walrusd.runtime.streams.items import LiveEvent, LoggedEvent
from walrusd.store.contract import StreamFilter
from walrusd.store.memory import MemoryLog

EVENT_COUNT = MAX_FRAMES + PAGE_ROWS
"""So many that the last page of them does not find room as a whole."""
TEXT = "x" * (WINDOW_BYTES // EVENT_COUNT // 2)
"""So long that few go into the socket, and all into the window."""


@pytest.fixture
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def publish_message(global_stream: GlobalStream, offset: int) -> None:
    event = UserMessage(ts=1.0, session=1, turn=1, content=TEXT)
    global_stream.publish(LoggedEvent(seq=offset, offset=offset, body=encode(event), event=event), "ada")


def drain(theirs: socket.socket, outbox: Outbox, received: bytearray) -> None:
    """Read all that is on its way; no task runs meanwhile."""
    while outbox.has_pending:
        received += theirs.recv(1 << 20)
        outbox.flush_now()
    with suppress(BlockingIOError):
        while True:
            received += theirs.recv(1 << 20)


def event_types(received: bytearray) -> list[str]:
    """Of the events, in the order in which they came."""
    types, start = [], 0
    while start < len(received):
        end = start + 4 + int.from_bytes(received[start : start + 4])
        types.append(json.loads(received[start + 4 : end])["params"]["event"]["type"])
        start = end
    return types


async def test_a_live_event_does_not_overtake_logged_events_that_wait_for_capacity(
    socket_pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = socket_pair
    everything, received = GlobalStream(MemoryLog(), lambda: 1.0), bytearray()
    outbox = Outbox(ours.fileno())
    # A relay asks nothing of the house.
    call = RequestContext(1, cast("DaemonServices", None), outbox, Uploads("."), OrderTicket())
    with everything.subscribe(None, StreamFilter(), announce_caught_up=True) as reader:

        async def relay() -> None:
            while await call.forward_events(reader, lambda _: True):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay)
            await trio.testing.wait_all_tasks_blocked()
            for offset in range(1, EVENT_COUNT + 1):
                publish_message(everything, offset)
            await trio.testing.wait_all_tasks_blocked()
            assert (outbox.is_full, reader.has_pending) == (True, False)
            drain(theirs, outbox, received)
            everything.publish_live(
                LiveEvent(EVENT_COUNT, TextDelta(ts=1.0, session=1, turn=1, text="!", round=1, at=0)), "ada"
            )
            await trio.testing.wait_all_tasks_blocked()
            drain(theirs, outbox, received)
            nursery.cancel_scope.cancel()
    assert event_types(received) == ["state_changed", *["user_message"] * EVENT_COUNT, "text_delta"]
