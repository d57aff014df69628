"""A minimal client: raw frames on a blocking Unix socket, with only the standard library."""

import json
import socket
from struct import Struct
from typing import Any

HEADER = Struct(">I")


def encode_request(method: str, params: dict[str, Any], request: int = 1) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": request, "method": method, "params": params}).encode()
    return HEADER.pack(len(body)) + body


class RawConnection:
    """A connection that sends one request at a time."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self._buffer = b""

    def close(self) -> None:
        self.socket.close()

    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Sends a request; returns its result and skips events. Raises RuntimeError on an error."""
        self.socket.sendall(encode_request(method, params))
        while True:
            answer = json.loads(self.receive())
            if "result" in answer:
                result: dict[str, Any] = answer["result"]
                return result
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")

    def receive(self) -> bytes:
        """Returns the payload of the next frame."""
        while len(self._buffer) < 4:
            self._receive_more()
        (size,) = HEADER.unpack_from(self._buffer)
        while len(self._buffer) < 4 + size:
            self._receive_more()
        payload, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
        return payload

    def _receive_more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the server closed the connection")
        self._buffer += data


def count_frames(connection: socket.socket, request: bytes) -> tuple[int, int, bytes]:
    """Sends a request; returns the number of frames and bytes up to its response, and the response."""
    connection.sendall(request)
    buffer, frames, size = bytearray(), 0, 0
    while True:
        data = connection.recv(262144)
        if not data:
            raise EOFError("the server closed the connection")
        size += len(data)
        buffer += data
        at = 0
        while len(buffer) - at >= 4:
            (length,) = HEADER.unpack_from(buffer, at)
            if len(buffer) - at < 4 + length:
                break
            frames += 1
            if buffer.startswith(b'{"jsonrpc":"2.0","id"', at + 4):
                return frames, size, bytes(buffer[at + 4 : at + 4 + length])
            at += 4 + length
        del buffer[:at]
