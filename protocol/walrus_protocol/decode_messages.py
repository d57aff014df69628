"""Payloads become messages: what a server makes of a client's, and a client of a server's.

`in_flight` is the connection's table of ids and methods; a request enters it here, a response that is read leaves it.
"""

import json
import re
from typing import Annotated, Literal, NoReturn

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from walrus_protocol import wire
from walrus_protocol.decode_params import FRAMING_HINT, decode_params, json_problem, nearest_name, quote_name
from walrus_protocol.json import BadJson, Decoder
from walrus_protocol.messages import (
    Cancel,
    ChunkNotification,
    EventNotification,
    Failure,
    FromClient,
    FromServer,
    RejectedRequest,
    Request,
    RequestId,
    Response,
)
from walrus_protocol.methods import METHODS
from walrus_protocol.problems import Problem

InFlight = dict[RequestId, str]


class ProtocolViolation(Exception):
    """The server sent what is not this protocol; nothing after it can be trusted."""


_MAX_ID_CHARS = 128
"""Characters of an id: it is repeated in every event and reply, which must fit into a frame with it."""
_MAX_SAFE_INT = 2**53 - 1
"""The largest int that every JSON library keeps exactly."""
_BoundedId = Annotated[int, Meta(ge=-_MAX_SAFE_INT, le=_MAX_SAFE_INT)] | Annotated[str, Meta(max_length=_MAX_ID_CHARS)]


class _RequestEnvelope(Struct, forbid_unknown_fields=True):
    jsonrpc: Literal["2.0"]
    method: str
    id: _BoundedId | UnsetType = UNSET
    params: Raw = Raw(b"{}")


class _CancelParams(Struct):
    id: _BoundedId


_envelope_decoder = Decoder(_RequestEnvelope)
_cancel_params_decoder = Decoder(_CancelParams)
_members_decoder = Decoder(dict[str, Raw])
_any_json_decoder = Decoder(Raw)
_id_decoder: Decoder[RequestId] = Decoder(_BoundedId)
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode_request(payload: bytes, in_flight: InFlight) -> FromClient | None:
    try:
        envelope = _envelope_decoder.decode(payload)
    except BadJson as error:
        return _reject_payload(payload, error)
    if envelope.id is UNSET:
        return _decode_cancel(envelope, in_flight)
    if envelope.id in in_flight:
        hint = "wait for its answer, or count ids up"
        return RejectedRequest(
            envelope.id, Problem("invalid_request", f"id {envelope.id!r} is already in flight", hint)
        )
    try:
        params = decode_params(envelope.method, envelope.params)
    except Problem as problem:
        return RejectedRequest(envelope.id, problem, close=problem.kind == "parse_error")
    in_flight[envelope.id] = envelope.method
    return Request(envelope.id, envelope.method, params)


def _decode_cancel(envelope: _RequestEnvelope, in_flight: InFlight) -> Cancel | None:
    """A message without an id is never answered, and only rpc.cancel of what is in flight is obeyed."""
    if envelope.method != "rpc.cancel":
        return None
    try:
        request = _cancel_params_decoder.decode(envelope.params).id
    except BadJson:
        return None
    return Cancel(request) if request in in_flight else None


def _reject_payload(payload: bytes, error: BadJson) -> RejectedRequest | None:
    """Why a payload is no request, or None for a message that gets no answer. Slow, so only taken when one is wrong."""
    if error.reason == "depth":
        return RejectedRequest(None, Problem("invalid_request", "the message is nested too deeply", "nest it less"))
    if error.reason == "utf8":
        return RejectedRequest(None, json_problem(error), close=True)
    try:
        if payload.lstrip(b" \t\r\n")[:1] != b"{":
            _any_json_decoder.decode(payload)
            return RejectedRequest(None, _not_an_object_problem(payload))
        members = _members_decoder.decode(payload)
    except BadJson as malformed:
        if malformed.reason == "depth":
            return _reject_payload(payload, malformed)
        return _reject_lone_surrogate(payload) or RejectedRequest(None, json_problem(malformed), close=True)
    if "id" not in members:
        return None
    try:
        request = _id_decoder.decode(members["id"])
    except BadJson:
        text = f"an id is a string of at most {_MAX_ID_CHARS} characters, or an int of at most 2^53-1"
        return RejectedRequest(None, Problem("invalid_request", text, "count ids up from 1"))
    return RejectedRequest(request, _envelope_problem(members))


def _not_an_object_problem(payload: bytes) -> Problem:
    if payload.lstrip(b" \t\r\n")[:1] == b"[":
        return Problem("invalid_request", "batches are not taken", "send each request in a frame of its own")
    return Problem("invalid_request", "a request is a JSON object", FRAMING_HINT)


def _envelope_problem(members: dict[str, Raw]) -> Problem:
    """Which member of a request is wrong, when its id is not."""
    for name in members:
        if name not in _RequestEnvelope.__struct_fields__:
            like = nearest_name(name, _RequestEnvelope.__struct_fields__)
            hint = f"did you mean {like}?" if like else "members: jsonrpc, id, method, params"
            return Problem("invalid_request", f"unknown member {quote_name(name)}", hint)
    if bytes(members.get("jsonrpc", Raw(b""))) != b'"2.0"':
        return Problem("invalid_request", 'a request says "jsonrpc": "2.0"', "add that member, or mend it")
    return Problem("invalid_request", "a request names its method", "rpc.discover lists the methods")


def _reject_lone_surrogate(payload: bytes) -> RejectedRequest | None:
    """A lone \\ud800 is JSON by its grammar, and what some languages make of half an emoji: no cause to hang up."""
    if not _LONE_SURROGATE.search(payload):
        return None
    try:
        message = json.loads(payload.decode(), parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return None
    request = message.get("id") if isinstance(message, dict) else None
    if request.__class__ not in (int, str) or len(str(request)) > _MAX_ID_CHARS:
        request = None
    text = "a string holds half a surrogate pair, which is no Unicode text"
    return RejectedRequest(request, Problem("invalid_params", text, "cut texts between characters, not inside one"))


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def reject_frame(error: wire.FrameTooLarge) -> RejectedRequest:
    return RejectedRequest(None, Problem("frame_too_large", str(error), FRAMING_HINT), close=True)


class _ErrorBody(Struct):
    code: int
    message: str = ""
    data: dict[str, object] = {}


class _ServerEnvelope(Struct):
    id: RequestId | None = None
    result: Raw | UnsetType = UNSET
    error: _ErrorBody | UnsetType = UNSET
    method: str = ""
    params: Raw = Raw(b"{}")


class _EventParams(Struct):
    request: RequestId
    event: Raw


class _ChunkParams(Struct):
    request: RequestId
    data: str


_server_envelope_decoder = Decoder(_ServerEnvelope)
_event_params_decoder = Decoder(_EventParams)
_chunk_params_decoder = Decoder(_ChunkParams)
_result_decoders = {name: Decoder(result) for name, (_, result) in METHODS.items()}


def decode_response(payload: bytes, in_flight: InFlight) -> FromServer | None:
    try:
        incoming = _server_envelope_decoder.decode(payload)
        if incoming.method:
            return _decode_notification(incoming, in_flight)
    except BadJson as error:
        raise ProtocolViolation(f"the server sent no JSON-RPC message: {error}") from error
    method = None if incoming.id is None else in_flight.pop(incoming.id, None)
    if incoming.error is not UNSET:
        return Response(incoming.id, _to_failure(incoming.error))
    if method is None or incoming.result is UNSET:
        return None
    try:
        return Response(incoming.id, _result_decoders[method].decode(incoming.result))
    except BadJson as error:
        told = Problem("protocol", f"the answer to {method} is not understood: {error}", "update this client")
        return Response(incoming.id, Failure.of(told))


def _decode_notification(
    envelope: _ServerEnvelope, in_flight: InFlight
) -> EventNotification | ChunkNotification | None:
    """None for one of a request that is over, and for those of a newer server."""
    notification: EventNotification | ChunkNotification
    match envelope.method:
        case "event":
            said = _event_params_decoder.decode(envelope.params)
            notification = EventNotification(said.request, said.event)
        case "chunk":
            piece = _chunk_params_decoder.decode(envelope.params)
            notification = ChunkNotification(piece.request, piece.data)
        case _:
            return None
    return notification if notification.request in in_flight else None


def _to_failure(error: _ErrorBody) -> Failure:
    data = dict(error.data)
    return Failure(error.code, error.message, str(data.pop("kind", "")), str(data.pop("hint", "")), data)


def raise_frame_error(error: wire.FrameTooLarge) -> NoReturn:
    raise ProtocolViolation(f"the server broke the framing: {error}")
