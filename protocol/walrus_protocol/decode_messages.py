"""Decodes payloads to messages, for the server and for the client.

`in_flight` is the connection's table of ids and methods: decoding a request adds an entry, decoding a response removes
it.
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
    """The server sent something that is not this protocol; the connection is unusable afterwards."""


_MAX_ID_CHARS = 128
"""Maximum characters of an id: every event and reply repeats it, and must fit into a frame with it."""
_MAX_SAFE_INT = 2**53 - 1
"""The largest int that every JSON library represents exactly."""
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
    """Returns a client's message, or None for one that is neither answered nor executed."""
    try:
        envelope = _envelope_decoder.decode(payload)
    except BadJson as error:
        return _reject_payload(payload, error)
    if envelope.id is UNSET:
        return _decode_cancel(envelope, in_flight)
    if envelope.id in in_flight:
        hint = "wait for its answer, or use a new id"
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
    """Decodes a message without an id: an rpc.cancel of a request in flight, or None for anything else."""
    if envelope.method != "rpc.cancel":
        return None
    try:
        request = _cancel_params_decoder.decode(envelope.params).id
    except BadJson:
        return None
    return Cancel(request) if request in in_flight else None


def _reject_payload(payload: bytes, error: BadJson) -> RejectedRequest | None:
    """Returns why a payload is not a request, or None for a message that gets no answer.

    This is slow, so it runs only for payloads that cannot be decoded.
    """
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
        text = f"an id must be a string of at most {_MAX_ID_CHARS} characters, or an int of at most 2^53-1"
        return RejectedRequest(None, Problem("invalid_request", text, "number requests from 1 upwards"))
    return RejectedRequest(request, _envelope_problem(members))


def _not_an_object_problem(payload: bytes) -> Problem:
    if payload.lstrip(b" \t\r\n")[:1] == b"[":
        return Problem("invalid_request", "batches are not supported", "send each request in its own frame")
    return Problem("invalid_request", "a request must be a JSON object", FRAMING_HINT)


def _envelope_problem(members: dict[str, Raw]) -> Problem:
    """Returns the problem of the wrong member of a request whose id is valid."""
    for name in members:
        if name not in _RequestEnvelope.__struct_fields__:
            nearest = nearest_name(name, _RequestEnvelope.__struct_fields__)
            hint = f"did you mean {nearest}?" if nearest else "members: jsonrpc, id, method, params"
            return Problem("invalid_request", f"unknown member {quote_name(name)}", hint)
    if bytes(members.get("jsonrpc", Raw(b""))) != b'"2.0"':
        return Problem("invalid_request", 'a request must have "jsonrpc": "2.0"', "add or correct that member")
    return Problem("invalid_request", "a request must name its method", "rpc.discover lists the methods")


def _reject_lone_surrogate(payload: bytes) -> RejectedRequest | None:
    """Rejects a lone \\ud800 without closing the connection.

    Its grammar is valid JSON, and some languages write half an emoji so.

    Returns None if the payload is invalid for another reason.
    """
    if not _LONE_SURROGATE.search(payload):
        return None
    try:
        message = json.loads(payload.decode(), parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return None
    request = message.get("id") if isinstance(message, dict) else None
    if request.__class__ not in (int, str) or len(str(request)) > _MAX_ID_CHARS:
        request = None
    text = "a string contains half a surrogate pair, which is not valid Unicode"
    return RejectedRequest(request, Problem("invalid_params", text, "split texts between characters, not inside one"))


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def reject_frame(error: wire.FrameTooLarge) -> RejectedRequest:
    """Returns the rejection of a client's frame over the limit; the connection must be closed."""
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
_result_decoders = {name: Decoder(row.result) for name, row in METHODS.items()}


def decode_response(payload: bytes, in_flight: InFlight) -> FromServer | None:
    """Returns a server's message, or None for one that this client skips. Raises ProtocolViolation."""
    try:
        envelope = _server_envelope_decoder.decode(payload)
        if envelope.method:
            return _decode_notification(envelope, in_flight)
    except BadJson as error:
        raise ProtocolViolation(f"the server sent something that is not a JSON-RPC message: {error}") from error
    method = None if envelope.id is None else in_flight.pop(envelope.id, None)
    if envelope.error is not UNSET:
        return Response(envelope.id, _to_failure(envelope.error))
    if method is None or envelope.result is UNSET:
        return None
    try:
        return Response(envelope.id, _result_decoders[method].decode(envelope.result))
    except BadJson as error:
        problem = Problem("protocol", f"this client cannot read the answer to {method}: {error}", "update this client")
        return Response(envelope.id, Failure.of(problem))


def _decode_notification(
    envelope: _ServerEnvelope, in_flight: InFlight
) -> EventNotification | ChunkNotification | None:
    """Returns the notification, or None if its request has ended or a newer server sent an unknown one."""
    notification: EventNotification | ChunkNotification
    match envelope.method:
        case "event":
            event = _event_params_decoder.decode(envelope.params)
            notification = EventNotification(event.request, event.event)
        case "chunk":
            chunk = _chunk_params_decoder.decode(envelope.params)
            notification = ChunkNotification(chunk.request, chunk.data)
        case _:
            return None
    return notification if notification.request in in_flight else None


def _to_failure(error: _ErrorBody) -> Failure:
    data = dict(error.data)
    return Failure(error.code, error.message, str(data.pop("kind", "")), str(data.pop("hint", "")), data)


def raise_frame_error(error: wire.FrameTooLarge) -> NoReturn:
    """Raises ProtocolViolation for a server's frame over the limit."""
    raise ProtocolViolation(f"the server violated the framing: {error}")
