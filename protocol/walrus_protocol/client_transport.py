"""A connection of the trio client: sends and receives whole messages over a Unix socket."""

import socket
from typing import Self, TypeVar

import trio
from msgspec import Struct

from walrus_protocol import wire
from walrus_protocol.client import RequestFailed, Unreachable, connect_error
from walrus_protocol.connection import (
    CLIENT,
    Cancel,
    Connection,
    Failure,
    FromServer,
    NeedData,
    ProtocolViolation,
    Request,
)

CONNECT_TIMEOUT_S = 10.0
"""Maximum seconds until an overloaded daemon accepts a connection."""
SEND_TIMEOUT_S = 10.0
"""Maximum seconds to send one frame; then the connection is closed."""
READ_BYTES = 65536

Result = TypeVar("Result", bound=Struct)


class ClientTransport:
    """One connection, created by `open`; the caller closes it with `aclose`."""

    def __init__(self, path: str, stream: trio.SocketStream) -> None:
        self._path = path
        self._stream = stream
        self._connection = Connection(CLIENT)
        self._send_lock = trio.Lock()
        self._last_id = 0

    @classmethod
    async def open(cls, path: str) -> Self:
        """Connects to the socket at `path`. Raises Unreachable."""
        return cls(path, trio.SocketStream(await _connect(path)))

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def send(self, message: Request | Cancel) -> None:
        """Sends one frame. A frame that has begun must end: cancellation waits for it, at most SEND_TIMEOUT_S.

        Raises RequestFailed if the message cannot be sent.
        """
        try:
            framed = self._connection.send(message)
        except wire.FrameTooLarge as error:
            raise RequestFailed(wire.INVALID_REQUEST, "frame_too_large", str(error), "send less at once") from error
        except UnicodeEncodeError as error:
            text = "a text contains half a surrogate pair, or bytes that are not UTF-8"
            raise RequestFailed(wire.INVALID_PARAMS, "invalid_params", text, "send text as UTF-8") from error
        with trio.move_on_after(SEND_TIMEOUT_S, shield=True) as scope:
            try:
                async with self._send_lock:
                    await self._stream.send_all(framed)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # a daemon that hangs up has often sent the reason, which the next read returns
        if scope.cancelled_caught:
            await trio.aclose_forcefully(self._stream)

    async def receive(self) -> FromServer:
        """Returns the next message. Raises Unreachable."""
        try:
            while isinstance(message := self._connection.next_message(), NeedData):
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    raise self._hung_up_error()
                self._connection.receive_data(data)
        except ProtocolViolation as error:
            raise Unreachable(str(error), "check that the socket is the right one") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._hung_up_error() from error
        return message

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _hung_up_error(self) -> Unreachable:
        return Unreachable(f"walrusd at {self._path} hung up", "acknowledged messages are not lost; read its log")


async def _connect(path: str) -> trio.socket.SocketType:
    """Returns a connected socket. Raises Unreachable."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(0)
    try:
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            while (error := _try_connect(sock, path)) is not None:  # noqa: ASYNC110  (no event signals that a backlog has space)
                # A full backlog refuses at once; trio's own connect mistakes that for a connection under way.
                await trio.sleep(0.01)
        if error is not None:
            raise error
    except OSError as failure:
        sock.close()
        raise connect_error(path, failure) from failure
    except BaseException:
        sock.close()
        raise
    return trio.socket.from_stdlib_socket(sock)


def _try_connect(sock: socket.socket, path: str) -> BlockingIOError | None:
    """Returns the error of a full backlog, or None if the socket is connected. Raises OSError."""
    try:
        sock.connect(path)
    except BlockingIOError as error:
        return error
    return None


def unwrap_result(result: Struct | Failure, result_type: type[Result]) -> Result:
    """Returns the result as its method's type. Raises RequestFailed if the request failed."""
    if isinstance(result, Failure):
        raise request_failed(result)
    assert isinstance(result, result_type), "the connection decodes a result by its request's method"
    return result


def request_failed(failure: Failure) -> RequestFailed:
    return RequestFailed(failure.code, failure.kind, failure.message, failure.hint, failure.data)
