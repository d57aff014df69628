"""Payloads become messages: what a server makes of a client's, and a client of a server's.

`in_flight` is the connection's table of ids and methods; a request enters it here, a response that is read leaves it.
"""

import json
import re
from typing import Annotated, Literal, NoReturn

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from walrus_protocol import wire
from walrus_protocol.json import BadJson, Decoder
from walrus_protocol.messages import (
    Cancel,
    ChunkNotification,
    EventNotification,
    Failure,
    FromClient,
    FromServer,
    Refusal,
    Request,
    RequestId,
    Response,
)
from walrus_protocol.methods import METHODS
from walrus_protocol.params import FRAMING, decode_params, nearest, no_json, shown
from walrus_protocol.problems import Problem

InFlight = dict[RequestId, str]


class Garbled(Exception):
    """The server sent what is not this protocol; nothing after it can be trusted."""


_MAX_ID = 128
"""Characters of an id: it is repeated in every event and reply, which must fit into a frame with it."""
_WHOLE = 2**53 - 1
"""The largest int that every JSON library keeps exactly."""
_Id = Annotated[int, Meta(ge=-_WHOLE, le=_WHOLE)] | Annotated[str, Meta(max_length=_MAX_ID)]


class _Envelope(Struct, forbid_unknown_fields=True):
    jsonrpc: Literal["2.0"]
    method: str
    id: _Id | UnsetType = UNSET
    params: Raw = Raw(b"{}")


class _CancelParams(Struct):
    id: _Id


_envelope = Decoder(_Envelope)
_cancel_params = Decoder(_CancelParams)
_members = Decoder(dict[str, Raw])
_any_json = Decoder(Raw)
_id: Decoder[RequestId] = Decoder(_Id)
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_request(payload: bytes, in_flight: InFlight) -> FromClient | None:
    try:
        envelope = _envelope.decode(payload)
    except BadJson as error:
        return _refused(payload, error)
    if envelope.id is UNSET:
        return _read_cancel(envelope, in_flight)
    if envelope.id in in_flight:
        hint = "wait for its answer, or count ids up"
        return Refusal(envelope.id, Problem("invalid_request", f"id {envelope.id!r} is already in flight", hint))
    try:
        params = decode_params(envelope.method, envelope.params)
    except Problem as problem:
        return Refusal(envelope.id, problem, close=problem.kind == "parse_error")
    in_flight[envelope.id] = envelope.method
    return Request(envelope.id, envelope.method, params)


def _read_cancel(envelope: _Envelope, in_flight: InFlight) -> Cancel | None:
    """A message without an id is never answered, and only rpc.cancel of what is in flight is obeyed."""
    if envelope.method != "rpc.cancel":
        return None
    try:
        request = _cancel_params.decode(envelope.params).id
    except BadJson:
        return None
    return Cancel(request) if request in in_flight else None


def _refused(payload: bytes, error: BadJson) -> Refusal | None:
    """Why a payload is no request, or None for a message that gets no answer. Slow, so only taken when one is wrong."""
    if error.reason == "depth":
        return Refusal(None, Problem("invalid_request", "the message is nested too deeply", "nest it less"))
    if error.reason == "utf8":
        return Refusal(None, no_json(error), close=True)
    try:
        if payload.lstrip(b" \t\r\n")[:1] != b"{":
            _any_json.decode(payload)
            return Refusal(None, _not_an_object(payload))
        members = _members.decode(payload)
    except BadJson as malformed:
        if malformed.reason == "depth":
            return _refused(payload, malformed)
        return _surrogate_refused(payload) or Refusal(None, no_json(malformed), close=True)
    if "id" not in members:
        return None
    try:
        request = _id.decode(members["id"])
    except BadJson:
        text = f"an id is a string of at most {_MAX_ID} characters, or an int of at most 2^53-1"
        return Refusal(None, Problem("invalid_request", text, "count ids up from 1"))
    return Refusal(request, _bad_envelope(members))


def _not_an_object(payload: bytes) -> Problem:
    if payload.lstrip(b" \t\r\n")[:1] == b"[":
        return Problem("invalid_request", "batches are not taken", "send each request in a frame of its own")
    return Problem("invalid_request", "a request is a JSON object", FRAMING)


def _bad_envelope(members: dict[str, Raw]) -> Problem:
    """Which member of a request is wrong, when its id is not."""
    for name in members:
        if name not in _Envelope.__struct_fields__:
            like = nearest(name, _Envelope.__struct_fields__)
            hint = f"did you mean {like}?" if like else "members: jsonrpc, id, method, params"
            return Problem("invalid_request", f"unknown member {shown(name)}", hint)
    if bytes(members.get("jsonrpc", Raw(b""))) != b'"2.0"':
        return Problem("invalid_request", 'a request says "jsonrpc": "2.0"', "add that member, or mend it")
    return Problem("invalid_request", "a request names its method", "rpc.discover lists the methods")


def _surrogate_refused(payload: bytes) -> Refusal | None:
    """A lone \\ud800 is JSON by its grammar, and what some languages make of half an emoji: no cause to hang up."""
    if not _LONE_SURROGATE.search(payload):
        return None
    try:
        message = json.loads(payload.decode(), parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None
    request = message.get("id") if isinstance(message, dict) else None
    if request.__class__ not in (int, str) or len(str(request)) > _MAX_ID:
        request = None
    text = "a string holds half a surrogate pair, which is no Unicode text"
    return Refusal(request, Problem("invalid_params", text, "cut texts between characters, not inside one"))


def _no_json(constant: str) -> NoReturn:
    raise ValueError(constant)


def refuse_frame(error: wire.FrameTooLarge) -> Refusal:
    return Refusal(None, Problem("frame_too_large", str(error), FRAMING), close=True)


class _Error(Struct):
    code: int
    message: str = ""
    data: dict[str, object] = {}


class _Incoming(Struct):
    id: RequestId | None = None
    result: Raw | UnsetType = UNSET
    error: _Error | UnsetType = UNSET
    method: str = ""
    params: Raw = Raw(b"{}")


class _EventParams(Struct):
    request: RequestId
    event: Raw


class _ChunkParams(Struct):
    request: RequestId
    data: str


_incoming = Decoder(_Incoming)
_event_params = Decoder(_EventParams)
_chunk_params = Decoder(_ChunkParams)
_results = {name: Decoder(result) for name, (_, result) in METHODS.items()}


def read_answer(payload: bytes, in_flight: InFlight) -> FromServer | None:
    try:
        incoming = _incoming.decode(payload)
        if incoming.method:
            return _read_notification(incoming, in_flight)
    except BadJson as error:
        raise Garbled(f"the server sent no JSON-RPC message: {error}") from error
    method = None if incoming.id is None else in_flight.pop(incoming.id, None)
    if incoming.error is not UNSET:
        return Response(incoming.id, _failure(incoming.error))
    if method is None or incoming.result is UNSET:
        return None
    try:
        return Response(incoming.id, _results[method].decode(incoming.result))
    except BadJson as error:
        told = Problem("protocol", f"the answer to {method} is not understood: {error}", "update this client")
        return Response(incoming.id, Failure.of(told))


def _read_notification(incoming: _Incoming, in_flight: InFlight) -> EventNotification | ChunkNotification | None:
    """None for one of a request that is over, and for those of a newer server."""
    notification: EventNotification | ChunkNotification
    match incoming.method:
        case "event":
            said = _event_params.decode(incoming.params)
            notification = EventNotification(said.request, said.event)
        case "chunk":
            piece = _chunk_params.decode(incoming.params)
            notification = ChunkNotification(piece.request, piece.data)
        case _:
            return None
    return notification if notification.request in in_flight else None


def _failure(error: _Error) -> Failure:
    data = dict(error.data)
    return Failure(error.code, error.message, str(data.pop("kind", "")), str(data.pop("hint", "")), data)


def distrust_frame(error: wire.FrameTooLarge) -> NoReturn:
    raise Garbled(f"the server broke the framing: {error}")
