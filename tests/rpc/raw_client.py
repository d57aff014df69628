"""A client that can send invalid requests: it builds frames by hand and encodes with the json module."""

import json
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

Json = dict[str, Any]


class RawClient:
    """One connection; `receive` returns messages as decoded JSON."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def send(self, *messages: object) -> None:
        """Sends each message in its own frame, all in one send."""
        await self.send_bytes(b"".join(encode_frame(json.dumps(message).encode()) for message in messages))

    async def send_bytes(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def send_request(self, method: str, params: object = None, id: object = 1) -> None:  # noqa: A002 - the wire's name
        await self.send(request(method, params, id))

    async def call(self, method: str, params: object = None, id: object = 1) -> Json:  # noqa: A002 - the wire's name
        """Sends a request and returns its answer; events and chunks before it are skipped."""
        await self.send_request(method, params, id)
        while (message := await self.receive()).get("method") in {"event", "chunk"}:
            pass
        return message

    async def receive(self) -> Json:
        message = await self.receive_or_end()
        assert message is not None, "the daemon closed the connection"
        return message

    async def receive_or_end(self) -> Json | None:
        """Returns the next message, or None at the end of the connection."""
        while len(self._buffer) < 4 or len(self._buffer) < 4 + self._frame_size():
            data = await self.stream.receive_some(65536)
            if not data:
                assert not self._buffer, "the daemon closed the connection in the middle of a frame"
                return None
            self._buffer += data
        end = 4 + self._frame_size()
        message: Json = json.loads(self._buffer[4:end])
        del self._buffer[:end]
        return message

    async def receive_events(self) -> tuple[list[Json], Json]:
        """Returns the events up to the next answer, and the answer."""
        events = []
        while (message := await self.receive()).get("method") == "event":
            events.append(message["params"]["event"])
        return events, message

    async def receive_chunks(self) -> tuple[list[str], Json]:
        """Returns the chunks of a document up to the next answer, and the answer."""
        pieces = []
        while (message := await self.receive()).get("method") == "chunk":
            pieces.append(message["params"]["data"])
        return pieces, message

    def _frame_size(self) -> int:
        return int.from_bytes(self._buffer[:4])


def encode_frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def request(method: str, params: object = None, id: object = 1) -> Json:  # noqa: A002 - the wire's name
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {} if params is None else params}


@asynccontextmanager
async def open_raw_client(socket: Path) -> AsyncGenerator[RawClient]:
    async with await trio.open_unix_socket(socket) as stream:
        yield RawClient(stream)
