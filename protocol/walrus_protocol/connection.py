"""Converts between bytes and messages, for servers and clients. No I/O: the caller owns the socket.

    connection.receive_data(sock.recv(65536))
    while (message := connection.next_message()) is not NEED_DATA: ...
    sock.sendall(connection.send(reply))

`Connection(SERVER)` reads Request, Cancel and RejectedRequest; `Connection(CLIENT)` reads Response, EventNotification
and ChunkNotification.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, TypeVar

from walrus_protocol import wire
from walrus_protocol.decode_messages import InFlight, decode_request, decode_response, raise_frame_error, reject_frame
from walrus_protocol.decode_messages import ProtocolViolation as ProtocolViolation

# The messages are names of this module, too: programs import them from here.
from walrus_protocol.messages import *

Message_co = TypeVar("Message_co", covariant=True)


class NeedData(Enum):
    """The result of `next_message` if no complete message has come."""

    NEED_DATA = "need data"


NEED_DATA = NeedData.NEED_DATA


class Role(Generic[Message_co]):
    """The side of a Connection: how it decodes a payload, and how it handles a frame over the limit."""

    def __init__(
        self,
        decode: Callable[[bytes, InFlight], Message_co | None],
        on_oversized_frame: Callable[[wire.FrameTooLarge], Message_co],
    ) -> None:
        self.decode = decode
        self.on_oversized_frame = on_oversized_frame


SERVER: Role[FromClient] = Role(decode_request, reject_frame)
CLIENT: Role[FromServer] = Role(decode_response, raise_frame_error)


class Connection(Generic[Message_co]):
    """One side of a connection: it holds the received bytes and the ids in flight."""

    def __init__(self, role: Role[Message_co]) -> None:
        self._role = role
        self._frames = wire.FrameDecoder()
        self._payloads: Iterator[bytes] = iter(())
        self._in_flight: InFlight = {}
        self._is_rejected = False

    def receive_data(self, data: bytes) -> None:
        """Adds received bytes."""
        if not self._is_rejected:
            self._frames.feed(data)
            self._payloads = iter(self._frames)

    def next_message(self) -> Message_co | NeedData:
        """Returns the next complete message, or NEED_DATA. Raises ProtocolViolation on a client's side only.

        After a RejectedRequest with `close` there are no more messages: bytes after an invalid frame are ignored.
        """
        message = None
        while message is None:
            try:
                payload = next(self._payloads, None)
                message = NEED_DATA if payload is None else self._role.decode(payload, self._in_flight)
            except wire.FrameTooLarge as error:
                message = self._role.on_oversized_frame(error)
        if message.__class__ is RejectedRequest and message.close:
            self._is_rejected = True
            self._payloads = iter(())
        return message

    @property
    def in_frame(self) -> bool:
        """True if a part of a frame has come and the rest has not."""
        return self._frames.in_frame

    @property
    def in_flight(self) -> frozenset[RequestId]:
        """The ids of the requests that are not answered yet."""
        return frozenset(self._in_flight)

    def mark_answered(self, request: RequestId) -> None:
        """Removes an id whose response was made by `encode_result` or `encode_error`; it may be used again."""
        self._in_flight.pop(request, None)

    def send(self, message: FromClient | FromServer) -> bytes:
        """Returns the message as bytes. Over the limit, raises Problem for a result, else wire.FrameTooLarge."""
        match message:
            case Request():
                if message.id in self._in_flight:
                    raise ValueError(f"id {message.id!r} is already in flight")
                framed = encode_request(message)
                self._in_flight[message.id] = message.method
                return framed
            case Cancel():
                return encode_cancel(message.id)
            case RejectedRequest():
                return encode_error(message.id, message.problem)
            case EventNotification():
                return encode_event(message.request, bytes(message.event))
            case ChunkNotification():
                return encode_chunk(message.request, message.data)
            case Response():
                return self._encode_response(message)

    def _encode_response(self, response: Response) -> bytes:
        if isinstance(response.result, Failure):
            framed = encode_failure(response.id, response.result)
        elif response.id is None:
            raise ValueError("a result belongs to a request")
        else:
            framed = encode_result(response.id, response.result)
        if response.id is not None:
            self.mark_answered(response.id)
        return framed
