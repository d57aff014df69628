"""The blocking client of walrusd, with the standard library only: one request at a time, plain dicts.

    with Client(socket_path) as client:
        session = client.call("session.create", {"agent": "walrus"})["session"]
        with client.stream("session.stream", {"session": session, "content": "hi"}) as turn:
            for event in turn: ...
        turn.result["text"]
        with client.chunks("session.export", {"session": session}) as document:
            for chunk in document: ...

protocol/README.md and the package walrus_protocol.methods describe the params and results.
"""

import contextlib
import json
import os
import socket
import struct
import time
from typing import Any, Self, TypeVar

from walrus_protocol import wire

Json = dict[str, Any]

_CONNECT_TIMEOUT_S = 10
"""Maximum seconds until an overloaded daemon accepts a connection.

Normally it accepts one within milliseconds.
"""
_READ_BYTES = 65536
_START_HINT = "start it with `walrusd`, the first time with `walrusd --init`"


class Unreachable(Exception):
    """No walrusd can be reached, or it disconnected before it answered. `hint` is advice for people."""

    def __init__(self, message: str, hint: str = _START_HINT) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RequestFailed(Exception):
    """The request was refused.

    `kind` is one of wire.KINDS or a newer one; `data` holds the error's other fields.
    """

    def __init__(self, code: int, kind: str, message: str, hint: str = "", data: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.message = message
        self.hint = hint
        self.data = data or {}


class TimedOut(Exception):
    """No answer came within the client's timeout. The daemon may still work on the request."""


class Client:
    """A connection to walrusd.

    `timeout` is the maximum seconds until a request's result; None means no limit.

    The constructor raises Unreachable; the methods raise Unreachable, RequestFailed and TimedOut.
    """

    def __init__(self, socket_path: str | os.PathLike[str], timeout: float | None = None) -> None:
        self.timeout = timeout
        self._transport = _SocketTransport(os.fspath(socket_path))
        self._last_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def call(self, method: str, params: Json | None = None) -> Json:
        """Calls a method and returns its result; events or chunks before the result are skipped."""
        with self.stream(method, params) as stream:
            for _ in stream:
                pass
        return stream.result

    def stream(self, method: str, params: Json | None = None) -> "Stream":
        """Calls a method and streams its events.

        Exit the stream, or read it to its end, before the next request.
        """
        return self._start_request(Stream, method, params)

    def chunks(self, method: str, params: Json | None = None) -> "Chunks":
        """Calls a method and streams its document.

        Exit the stream, or read it to its end, before the next request.
        """
        return self._start_request(Chunks, method, params)

    def _start_request(
        self, request_type: "type[PendingRequestT]", method: str, params: Json | None
    ) -> "PendingRequestT":
        if self._transport.pending_id is not None:
            raise RuntimeError("a stream is still under way on this connection: exit it, or use another Client")
        self._last_id += 1
        request = request_type(self._transport, self._last_id, method, self.timeout)
        self._transport.send(
            {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params or {}}, self.timeout
        )
        self._transport.pending_id = self._last_id
        return request


class _PendingRequest:
    """A request under way: an iterator over its notifications, then its `result`."""

    def __init__(self, transport: "_SocketTransport", request_id: int, method: str, timeout: float | None) -> None:
        self._transport = transport
        self._id = request_id
        self._method = method
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._result: Json | None = None

    @property
    def result(self) -> Json:
        """The method's result.

        Raises RuntimeError until all notifications have been read.
        """
        if self._result is None:
            raise RuntimeError(f"{self._method} has not answered yet: read all its notifications first")
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.cancel()

    def __iter__(self) -> Self:
        return self

    def _next_notification(self, notification: str, member: str) -> Any:
        """Returns a member of the next such notification. Raises StopIteration when the result has come."""
        while self._transport.pending_id == self._id:
            try:
                message = self._transport.receive(self._method, self._deadline)
            except TimeoutError as error:
                raise TimedOut(f"no answer to {self._method} within {self._timeout:g} s") from error
            try:
                if message.get("method") == notification and message["params"]["request"] == self._id:
                    return message["params"][member]
                if "id" in message and message["id"] in (self._id, None):
                    self._finish(message)
            except (KeyError, TypeError) as error:
                raise self._transport.reject_peer() from error
        raise StopIteration

    def cancel(self) -> None:
        """Stops waiting for the result. Does nothing if the request has ended."""
        if self._transport.pending_id == self._id:
            self._transport.pending_id = None
            # If the connection is closed, the daemon has cancelled the request anyway.
            with contextlib.suppress(OSError, TimedOut):
                self._transport.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": self._id}}, 1.0)

    def _finish(self, message: Json) -> None:
        self._transport.pending_id = None
        if "error" in message:
            error = message["error"]
            data = dict(error.get("data") or {})
            kind, hint = data.pop("kind", ""), data.pop("hint", "")
            raise RequestFailed(error["code"], kind, error.get("message", ""), hint, data)
        self._result = message["result"]


class Stream(_PendingRequest):
    """A streaming request under way: iterate over its events, then read its `result`.

    Exiting it early cancels only the wait: a turn continues in the daemon.
    """

    def __next__(self) -> Json:
        event: Json = self._next_notification("event", "event")
        return event


class Chunks(_PendingRequest):
    """A document sent in chunks: iterate over the chunks, then read the `result`.

    Exiting it early cancels it.
    """

    def __next__(self) -> str:
        return str(self._next_notification("chunk", "data"))


PendingRequestT = TypeVar("PendingRequestT", bound=_PendingRequest)


class _SocketTransport:
    """A connected socket that sends and receives dicts. `pending_id` is the request under way."""

    def __init__(self, path: str) -> None:
        self.pending_id: int | None = None
        self._path = path
        self._sock = connect(path)
        self._frames = wire.FrameDecoder()
        self._payloads = iter(self._frames)

    def close(self) -> None:
        self._sock.close()

    def send(self, message: Json, timeout: float | None) -> None:
        try:
            framed = wire.frame(json.dumps(message, ensure_ascii=False, allow_nan=False).encode())
        except wire.FrameTooLarge as error:
            raise RequestFailed(wire.INVALID_REQUEST, "frame_too_large", str(error), "send less at once") from error
        except UnicodeEncodeError as error:
            text = "a text contains bytes that are not UTF-8"
            raise RequestFailed(wire.INVALID_PARAMS, "invalid_params", text, "send text as UTF-8") from error
        self._sock.settimeout(timeout)
        try:
            self._sock.sendall(framed)
        except TimeoutError as error:
            self.close()  # part of the frame is sent: no other frame can follow it
            raise TimedOut(f"walrusd did not accept the request within {timeout:g} s") from error
        except (BrokenPipeError, ConnectionResetError):
            pass  # a daemon that hangs up has often sent the reason, which the next read returns

    def receive(self, method: str, deadline: float | None) -> Json:
        """Returns the next message, of any request. Raises TimeoutError at the deadline."""
        try:
            while (payload := next(self._payloads, None)) is None:
                self._frames.feed(self._receive_bytes(method, deadline))
                self._payloads = iter(self._frames)
            message = json.loads(payload)
        except (wire.FrameTooLarge, ValueError, RecursionError) as error:
            raise self.reject_peer() from error
        if not isinstance(message, dict):
            raise self.reject_peer()
        return message

    def reject_peer(self) -> Unreachable:
        """Closes the connection to a peer that violated the protocol, and returns the error to raise."""
        self.close()
        message = f"the server at {self._path} does not speak the protocol of walrusd"
        return Unreachable(message, "check that --socket or WALRUS_SOCKET names the right socket")

    def _receive_bytes(self, method: str, deadline: float | None) -> bytes:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise TimeoutError
        self._sock.settimeout(remaining)
        try:
            data = self._sock.recv(_READ_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Unreachable(
                f"walrusd at {self._path} hung up before it answered {method}",
                "acknowledged messages are not lost: check with `walrusctl ping` whether it runs, and read its log",
            )
        return data


def connect(path: str) -> socket.socket:
    """Returns a connected socket. Raises Unreachable."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Blocking, with a kernel time-out: a non-blocking connect fails at once when the backlog is full.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _CONNECT_TIMEOUT_S, 0))
        sock.connect(path)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
    except OSError as error:
        sock.close()
        raise connect_error(path, error) from error
    return sock


def connect_error(path: str, error: OSError) -> Unreachable:
    """Returns the error, for people, of a failed connect to the socket at `path`."""
    if isinstance(error, FileNotFoundError):
        return Unreachable(f"walrusd is not running: there is no socket at {path}")
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(f"walrusd is not running: nothing listens at {path}")
    if isinstance(error, PermissionError):
        hint = "run as the user that walrusd runs as, or name another home with --home or WALRUS_HOME"
        return Unreachable(f"the socket at {path} may not be opened by this user", hint)
    if isinstance(error, BlockingIOError):
        return Unreachable(
            f"walrusd at {path} accepted no connection for {_CONNECT_TIMEOUT_S} s", "it is overloaded: try again"
        )
    if error.errno is None:
        return Unreachable(f"the socket path is too long: {path}", "name one of at most 107 bytes with --socket")
    return Unreachable(f"cannot connect to {path}: {error.strerror}")
