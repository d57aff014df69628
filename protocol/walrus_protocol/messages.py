"""The messages of the wire and their encoding, as pure functions that hot paths can call directly."""

import msgspec
from msgspec import Raw, Struct

from walrus_protocol import wire
from walrus_protocol.param_types import Params
from walrus_protocol.problems import Problem

RequestId = int | str
_MAX_ERROR_TEXT = 4096
"""Maximum characters of an error's message or hint, so that an error always fits into a frame."""


class Request(Struct, frozen=True):
    """A call of a method, with validated params. Its id is in flight until its Response is sent."""

    id: RequestId
    method: str
    params: Params


class Cancel(Struct, frozen=True):
    """An rpc.cancel of a request in flight: the client no longer waits for its answer."""

    id: RequestId


class RejectedRequest(Struct, frozen=True):
    """A message from a client that cannot be served.

    Send this error, then close the connection if `close` is true.
    """

    id: RequestId | None
    problem: Problem
    close: bool = False


class Failure(Struct, frozen=True):
    """An error as it is sent; `data` holds its fields other than kind and hint."""

    code: int
    message: str
    kind: str = ""
    hint: str = ""
    data: dict[str, object] = {}

    @classmethod
    def of(cls, problem: Problem) -> "Failure":
        """Returns the failure with the fields of a problem."""
        return cls(problem.code, problem.message, problem.kind, problem.hint, problem.data)


class Response(Struct, frozen=True):
    """The response to a request. Its id is None only for an error that belongs to no request."""

    id: RequestId | None
    result: Struct | Failure


class EventNotification(Struct, frozen=True):
    """An event of a streaming request; `event` is its JSON, for events.decode."""

    request: RequestId
    event: Raw


class ChunkNotification(Struct, frozen=True):
    """The next piece of a document that a request returns."""

    request: RequestId
    data: str


FromClient = Request | Cancel | RejectedRequest
FromServer = Response | EventNotification | ChunkNotification

_encode = msgspec.json.Encoder().encode


def encode_result(request: RequestId, result: Struct) -> bytes:
    """Returns a framed response. Raises Problem if it does not fit into a frame."""
    payload = b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encode(request), _encode(result))
    try:
        return wire.frame(payload)
    except wire.FrameTooLarge as error:
        raise Problem(
            "frame_too_large",
            f"the result has {error.size:,} bytes; a frame has at most {wire.MAX_FRAME:,}",
            "request less at once: lists and histories have the param limit",
        ) from error


def encode_error(request: RequestId | None, problem: Problem) -> bytes:
    """Returns a framed error response.

    It always fits: long texts are cut, and data that is too large is left out.
    """
    return encode_failure(request, Failure.of(problem))


def encode_event(request: RequestId, event: bytes) -> bytes:
    """Returns a framed event notification with the event's JSON unchanged. Raises wire.FrameTooLarge."""
    return wire.frame(
        b'{"jsonrpc":"2.0","method":"event","params":{"request":%b,"event":%b}}' % (_encode(request), event)
    )


def encode_chunk(request: RequestId, data: str) -> bytes:
    """Returns a framed chunk notification. Raises wire.FrameTooLarge."""
    return wire.frame(
        b'{"jsonrpc":"2.0","method":"chunk","params":{"request":%b,"data":%b}}' % (_encode(request), _encode(data))
    )


def encode_failure(request: RequestId | None, failure: Failure) -> bytes:
    """Returns a framed error response; like encode_error, it always fits."""
    required = {"kind": failure.kind, "hint": _encodable_text(failure.hint)}
    error = {"code": failure.code, "message": _encodable_text(failure.message), "data": {**failure.data, **required}}
    payload = _encode({"jsonrpc": "2.0", "id": request, "error": error})
    if len(payload) > wire.MAX_FRAME:
        payload = _encode({"jsonrpc": "2.0", "id": request, "error": {**error, "data": required}})
    return wire.frame(payload)


def _encodable_text(text: str) -> str:
    """Shortens a text, and replaces lone surrogates.

    File names can contain them, and UTF-8 cannot encode them.
    """
    return text[:_MAX_ERROR_TEXT].encode("utf-8", "replace").decode()


def encode_request(request: Request) -> bytes:
    """Returns a framed request. Raises wire.FrameTooLarge."""
    head = b'{"jsonrpc":"2.0","id":%b,"method":%b' % (_encode(request.id), _encode(request.method))
    return wire.frame(b'%b,"params":%b}' % (head, _encode(request.params)))


def encode_cancel(request: RequestId) -> bytes:
    """Returns a framed rpc.cancel."""
    return wire.frame(b'{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":%b}}' % _encode(request))


# Former names: aliases for one release, then they are removed (see CHANGELOG.md).
Refusal = RejectedRequest
