"""The messages of the wire, and how each is encoded: pure functions, free for a hot path to call alone."""

import msgspec
from msgspec import Raw, Struct

from walrus_protocol import wire
from walrus_protocol.param_types import Params
from walrus_protocol.problems import Problem

RequestId = int | str
_MAX_ERROR_TEXT = 4096
"""Characters of an error's message or hint, so that an error always fits into a frame."""


class Request(Struct, frozen=True):
    """A call, with params that have been checked. Its id is in flight until its Response is sent."""

    id: RequestId
    method: str
    params: Params


class Cancel(Struct, frozen=True):
    """rpc.cancel of a request in flight: its answer is no longer awaited."""

    id: RequestId


class RejectedRequest(Struct, frozen=True):
    """What a client sent is no request that can be served: `send` this, and then close where `close` says so."""

    id: RequestId | None
    problem: Problem
    close: bool = False


class Failure(Struct, frozen=True):
    """An error as the wire carries it; `data` is what came beside kind and hint."""

    code: int
    message: str
    kind: str = ""
    hint: str = ""
    data: dict[str, object] = {}

    @classmethod
    def of(cls, problem: Problem) -> "Failure":
        return cls(problem.code, problem.message, problem.kind, problem.hint, problem.data)


class Response(Struct, frozen=True):
    """The answer to a request. Its id is None only for an error that belongs to no request."""

    id: RequestId | None
    result: Struct | Failure


class EventNotification(Struct, frozen=True):
    """An event of a streaming request; its body as JSON, for events.decode."""

    request: RequestId
    event: Raw


class ChunkNotification(Struct, frozen=True):
    """The next piece of a document that a request asked for."""

    request: RequestId
    data: str


FromClient = Request | Cancel | RejectedRequest
FromServer = Response | EventNotification | ChunkNotification

_encode = msgspec.json.Encoder().encode


def _encode_id(request: RequestId | None) -> bytes:
    return b"%d" % request if request.__class__ is int else _encode(request)


def encode_result(request: RequestId, result: Struct) -> bytes:
    """A response, framed. Raises Problem when it does not fit into a frame."""
    payload = b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encode_id(request), _encode(result))
    try:
        return wire.frame(payload)
    except wire.FrameTooLarge as error:
        raise Problem(
            "frame_too_large",
            f"the result takes {error.size:,} bytes, a frame at most {wire.MAX_FRAME:,}",
            "ask for less at once: lists and histories take a limit",
        ) from error


def encode_error(request: RequestId | None, problem: Problem) -> bytes:
    """An error response, framed. It always fits: a text too long is cut, data too large is left out."""
    return encode_failure(request, Failure.of(problem))


def encode_event(request: RequestId, event: bytes) -> bytes:
    """An event notification, framed, around the event's JSON as it is. Raises wire.FrameTooLarge."""
    return wire.frame(
        b'{"jsonrpc":"2.0","method":"event","params":{"request":%b,"event":%b}}' % (_encode_id(request), event)
    )


def encode_chunk(request: RequestId, data: str) -> bytes:
    """A chunk notification, framed. Raises wire.FrameTooLarge."""
    return wire.frame(
        b'{"jsonrpc":"2.0","method":"chunk","params":{"request":%b,"data":%b}}' % (_encode_id(request), _encode(data))
    )


def encode_failure(request: RequestId | None, failure: Failure) -> bytes:
    told = {"kind": failure.kind, "hint": _encodable_text(failure.hint)}
    error = {"code": failure.code, "message": _encodable_text(failure.message), "data": {**failure.data, **told}}
    whole = _encode({"jsonrpc": "2.0", "id": request, "error": error})
    if len(whole) > wire.MAX_FRAME:
        whole = _encode({"jsonrpc": "2.0", "id": request, "error": {**error, "data": told}})
    return wire.frame(whole)


def _encodable_text(text: str) -> str:
    """Short, and without the lone surrogates that file names may bring and UTF-8 cannot carry."""
    return text[:_MAX_ERROR_TEXT].encode("utf-8", "replace").decode()


def encode_request(request: Request) -> bytes:
    """A request, framed. Raises wire.FrameTooLarge."""
    head = b'{"jsonrpc":"2.0","id":%b,"method":%b' % (_encode_id(request.id), _encode(request.method))
    return wire.frame(b'%b,"params":%b}' % (head, _encode(request.params)))


def encode_cancel(request: RequestId) -> bytes:
    return wire.frame(b'{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":%b}}' % _encode_id(request))
