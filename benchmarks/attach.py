"""Measures `session.attach` of a session with 10,000 events: first after a start, and again.

The first attachment is the first request after the start.
The received bytes are compared with frames that are built here from the log, without the daemon.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import trio
from msgspec import Struct

from benchmarks import seed
from benchmarks.children import child, make_home, read_line, walrusd
from benchmarks.echo_server import EVENT_FRAME
from benchmarks.setup import Setup
from benchmarks.table import Measurement, p50, per_s
from benchmarks.wire import HEADER, encode_request
from walrus_protocol.client import Client
from walrus_protocol.events import insert_position

EVENTS = 10_000
ROUNDS = 7
BAR = 50_000
RESPONSE = b'{"jsonrpc":"2.0","id":'


class ExpectedFrames(Struct, frozen=True):
    """A session, and all frames of an attach to it before the response."""

    session: int
    events: int
    frames: bytes

    @property
    def params(self) -> dict[str, int | bool]:
        return {"session": self.session, "since": 0, "follow": False}


def run(setup: Setup) -> list[Measurement]:
    home = make_home(setup.folder / "attach", setup.url)
    expected = trio.run(_seed_session, home, setup.scale(EVENTS))
    readers: dict[str, Callable[[str, ExpectedFrames], float]] = {
        "first request after a start, file not in memory": _read_raw,
        "again": _read_raw,
        "by the blocking Python client, which decodes them": _read_with_client,
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    floors: list[float] = []
    flood_path = str(setup.folder / "frames.sock")
    with child(["-m", "benchmarks.echo_server", flood_path]) as flood:
        read_line(flood)
        for _ in range(setup.scale(ROUNDS)):
            floors.append(_read_prebuilt(flood_path, expected))
            _drop_page_cache(home)
            with walrusd(home) as daemon:
                for name, read in readers.items():
                    rates[name].append(read(daemon.socket, expected))
    return [
        Measurement(
            what=f"attach of {expected.events:,} events, {name}",
            measured=f"{per_s(p50(found))} (at least {per_s(min(found))}), byte for byte",
            floor=f"{per_s(p50(floors))} prebuilt frames of {len(EVENT_FRAME)} bytes by bare trio",
            ratio=p50(found) / p50(floors),
            bar=f"≥ {BAR:,}/s",
            met=p50(found) >= BAR,
            values={"per_s": p50(found), "least_per_s": min(found), "floor_per_s": p50(floors)},
        )
        for name, found in rates.items()
    ]


async def _seed_session(home: Path, count: int) -> ExpectedFrames:
    """Creates a session of at least `count` events; returns it with the frames of an attach."""
    session = await seed.create_session_of_events(home, count)
    frames = bytearray()
    events = 0
    async with seed.open_runtime(home) as runtime:
        while rows := await runtime.log.events(session, events, count):
            for row in rows:
                event = insert_position(row.body, row.seq, row.offset)
                payload = b'{"jsonrpc":"2.0","method":"event","params":{"request":1,"event":%b}}' % event
                frames += HEADER.pack(len(payload)) + payload
            events = rows[-1].seq
    return ExpectedFrames(session, events, bytes(frames))


def _drop_page_cache(home: Path) -> None:
    """Drops the store's files from the kernel's page cache."""
    for path in home.glob("walrus.db*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _read_raw(path: str, expected: ExpectedFrames) -> float:
    """Returns events per second, from the request to the last byte."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        began = time.perf_counter()
        connection.sendall(encode_request("session.attach", expected.params))
        frames = _receive_exactly(connection, len(expected.frames))
        took = time.perf_counter() - began
        if frames != expected.frames:
            raise RuntimeError("the received frames differ from the log")
        answer = connection.recv(65536)
    if not answer[4:].startswith(RESPONSE):
        raise RuntimeError(f"the daemon sent more than the log holds: {answer[4:200]!r}")
    return expected.events / took


def _read_with_client(path: str, expected: ExpectedFrames) -> float:
    with Client(path) as client:
        began = time.perf_counter()
        with client.stream("session.attach", expected.params) as stream:
            events = list(stream)
        took = time.perf_counter() - began
    at = 0
    for event in events:
        (size,) = HEADER.unpack_from(expected.frames, at)
        if event != json.loads(expected.frames[at + 4 : at + 4 + size])["params"]["event"]:
            raise RuntimeError(f"a received event differs from the log: {event}")
        at += 4 + size
    if at != len(expected.frames):
        raise RuntimeError(f"{len(events)} events were received, and the log holds {expected.events}")
    return expected.events / took


def _read_prebuilt(path: str, expected: ExpectedFrames) -> float:
    """Returns frames per second of about as many prebuilt bytes from the bare server."""
    size = str(len(expected.frames)).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        began = time.perf_counter()
        connection.sendall(HEADER.pack(len(size)) + size)
        data = bytearray()
        while not data.endswith(b'"result":{}}'):
            data += connection.recv(262144)
        return len(data) / len(EVENT_FRAME) / (time.perf_counter() - began)


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        if not (more := connection.recv(min(262144, size - len(data)))):
            raise EOFError(f"the daemon closed the connection after {len(data)} of {size} bytes")
        data += more
    return bytes(data)
