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
from walrusd.rpc.call import Call, House
from walrusd.rpc.order import Place
from walrusd.rpc.outbox import MOST_MESSAGES, Outbox
from walrusd.rpc.uploads import Uploads
from walrusd.runtime.bus import PAGE, Fact, Passing
from walrusd.runtime.everything import WINDOW_BYTES, Everything
from walrusd.store.log import Wanted
from walrusd.store.memory import MemoryLog

FACTS = MOST_MESSAGES + PAGE
"""So many that the last page of them does not find room as a whole."""
TEXT = "x" * (WINDOW_BYTES // FACTS // 2)
"""So long that few go into the socket, and all into the window."""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def told(everything: Everything, offset: int) -> None:
    event = UserMessage(ts=1.0, session=1, turn=1, content=TEXT)
    everything.publish(Fact(seq=offset, offset=offset, body=encode(event), event=event), "ada")


def drain(theirs: socket.socket, outbox: Outbox, received: bytearray) -> None:
    """Read all that is on its way; no task runs meanwhile."""
    while outbox.waiting:
        received += theirs.recv(1 << 20)
        outbox.push()
    with suppress(BlockingIOError):
        while True:
            received += theirs.recv(1 << 20)


def types_of(received: bytearray) -> list[str]:
    """Of the events, in the order in which they came."""
    types, start = [], 0
    while start < len(received):
        end = start + 4 + int.from_bytes(received[start : start + 4])
        types.append(json.loads(received[start + 4 : end])["params"]["event"]["type"])
        start = end
    return types


async def test_a_live_event_does_not_overtake_facts_that_waited_for_room(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    everything, received = Everything(MemoryLog(), lambda: 1.0), bytearray()
    outbox = Outbox(ours.fileno())
    # A relay asks nothing of the house.
    call = Call(1, cast("House", None), outbox, Uploads("."), Place())
    with everything.reader(None, Wanted(), mark=True) as reader:

        async def relay() -> None:
            while await call.relay(reader, lambda _: True):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay)
            await trio.testing.wait_all_tasks_blocked()
            for offset in range(1, FACTS + 1):
                told(everything, offset)
            await trio.testing.wait_all_tasks_blocked()
            assert (outbox.full, reader.behind) == (True, False)
            drain(theirs, outbox, received)
            everything.pass_on(Passing(FACTS, TextDelta(ts=1.0, session=1, turn=1, text="!", round=1, at=0)), "ada")
            await trio.testing.wait_all_tasks_blocked()
            drain(theirs, outbox, received)
            nursery.cancel_scope.cancel()
    assert types_of(received) == ["state_changed", *["user_message"] * FACTS, "text_delta"]
