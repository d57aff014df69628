"""Tests of bad input to a server: each kind gets its own error, and only invalid frames close it."""

import json
from collections.abc import Iterator
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus_protocol import wire
from walrus_protocol.connection import CLIENT, NEED_DATA, SERVER, Connection, RejectedRequest, Request
from walrus_protocol.content import FilePart, ImagePart, State, TextPart
from walrus_protocol.events import UserMessage, decode
from walrus_protocol.methods import SendParams
from walrus_protocol.param_types import NoParams
from walrus_protocol.problems import Problem

DISCOVER = "rpc.discover and protocol/README.md say what {} takes"
PARTS = (
    'a part is {"type":"text","text"}, {"type":"image","media_type","data" or "url"} or {"type":"file","name","data"}'
)
FIELDS = "fields of parts: type, text, media_type, data, url, name"
CONTENT = "content must be a string or an array of parts, and not empty"

texts = st.text(st.characters(exclude_categories=["Cs"]))


def drain(connection: Connection[object]) -> Iterator[object]:
    while (message := connection.next_message()) is not NEED_DATA:
        yield message


def server_refusals(*payloads: bytes) -> list[tuple[object, str, bool]]:
    """Returns a server's refusals of payloads: the id, the error's kind, and whether it disconnects."""
    server = Connection(SERVER)
    server.receive_data(b"".join(map(wire.frame, payloads)))
    messages = list(drain(server))
    assert all(isinstance(message, RejectedRequest) for message in messages), messages
    return [
        (message.id, message.problem.kind, message.close)
        for message in messages
        if isinstance(message, RejectedRequest)
    ]


def request_problem(**members: object) -> Problem:
    """Returns the problem of one refused request; the connection must stay open."""
    server = Connection(SERVER)
    server.receive_data(wire.frame(json.dumps({"jsonrpc": "2.0", "id": 1, **members}).encode()))
    (message,) = drain(server)
    assert isinstance(message, RejectedRequest)
    assert (message.id, message.close) == (1, False)
    return message.problem


@given(st.binary())
def test_a_server_never_raises_for_any_bytes(noise: bytes) -> None:
    server = Connection(SERVER)
    server.receive_data(noise)
    list(drain(server))
    framed = Connection(SERVER)
    framed.receive_data(wire.frame(noise))
    list(drain(framed))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda inner: st.lists(inner) | st.dictionaries(texts | st.sampled_from(["id", "method", "jsonrpc"]), inner),
    )
)
def test_a_server_never_raises_for_any_json_and_each_answer_can_be_sent(value: object) -> None:
    server = Connection(SERVER)
    server.receive_data(wire.frame(json.dumps(value).encode()))
    for message in drain(server):
        if isinstance(message, RejectedRequest):
            server.send(message)


def test_a_frame_over_the_limit_is_refused_by_its_length_and_closes_the_connection() -> None:
    server = Connection(SERVER)
    server.receive_data((wire.MAX_FRAME + 1).to_bytes(4, "big"))
    (message,) = drain(server)
    assert isinstance(message, RejectedRequest)
    assert (message.id, message.problem.kind, message.close) == (None, "frame_too_large", True)


def test_an_http_request_gets_an_error_about_the_framing() -> None:
    server = Connection(SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\n\r\n")
    (message,) = drain(server)
    assert isinstance(message, RejectedRequest)
    assert "4-byte big-endian length" in message.problem.hint


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"  ",
        b"nonsense",
        b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping"',
        b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping"} {}',
        b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping","params":{"a":NaN}}',
        b'{"jsonrpc":"2.0","id":NaN,"method":"daemon.ping"}',
        b"[1,2",
        b'"\xff"x',
        b"\xef\xbb\xbf{}",
    ],
)
def test_bytes_that_are_not_json_are_refused_and_close_the_connection(payload: bytes) -> None:
    assert server_refusals(payload) == [(None, "parse_error", True)]


def test_text_that_is_not_utf8_is_refused_and_closes_the_connection() -> None:
    payload = b'{"jsonrpc":"2.0","id":7,"method":"session.send","params":{"session":1,"content":"\xff"}}'
    assert server_refusals(payload) == [(7, "parse_error", True)]
    for envelope in b'"id":"\xff","method":"daemon.ping"', b'"id":1,"method":"\xff"':
        assert server_refusals(b'{"jsonrpc":"2.0",%b}' % envelope) == [(None, "parse_error", True)]


def test_bytes_after_a_refusal_that_closes_are_ignored() -> None:
    ping = b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping"}'
    assert server_refusals(b"nonsense", ping) == [(None, "parse_error", True)]


def test_half_a_surrogate_pair_is_refused_and_the_connection_stays_open() -> None:
    half = rb'{"jsonrpc":"2.0","id":"a","method":"session.send","params":{"session":1,"content":"\ud83d"}}'
    assert server_refusals(half, half) == [("a", "invalid_params", False)] * 2


def test_a_batch_is_refused_and_the_connection_stays_open() -> None:
    assert server_refusals(b"[]", b'[{"jsonrpc":"2.0","id":1,"method":"daemon.ping"}]') == [
        (None, "invalid_request", False),
        (None, "invalid_request", False),
    ]


@pytest.mark.parametrize("payload", [b"1", b'"text"', b"null", b"true"])
def test_json_that_is_not_an_object_is_refused_and_the_connection_stays_open(payload: bytes) -> None:
    assert server_refusals(payload, payload) == [(None, "invalid_request", False)] * 2


@pytest.mark.parametrize("bad", ["true", "1.0", "1e3", "null", "{}", "[]", str(2**53), "9" * 5000, f'"{"x" * 129}"'])
def test_an_id_that_is_not_an_int_or_a_short_string_is_refused(bad: str) -> None:
    payload = f'{{"jsonrpc":"2.0","id":{bad},"method":"daemon.ping"}}'.encode()
    assert server_refusals(payload) == [(None, "invalid_request", False)]


def test_an_id_in_flight_is_refused_until_it_is_answered() -> None:
    server = Connection(SERVER)
    ping = wire.frame(b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping"}')
    server.receive_data(ping + ping)
    first, second = drain(server)
    assert first == Request(1, "daemon.ping", NoParams())
    assert isinstance(second, RejectedRequest)
    assert (second.id, second.problem.kind, second.close) == (1, "invalid_request", False)
    server.send(second)
    assert server.in_flight == {1}
    server.mark_answered(1)
    server.receive_data(ping)
    assert list(drain(server)) == [first]


def test_the_int_1_and_the_string_1_are_different_ids() -> None:
    server = Connection(SERVER)
    for encoded_id in (b"1", b'"1"'):
        server.receive_data(wire.frame(b'{"jsonrpc":"2.0","id":%b,"method":"daemon.ping"}' % encoded_id))
    assert list(drain(server)) == [Request(1, "daemon.ping", NoParams()), Request("1", "daemon.ping", NoParams())]


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"jsonrpc":"2.0","method":"daemon.shutdown"}',
        b'{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":1}}',
        b'{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":{}}}',
        b'{"jsonrpc":"2.0","method":"rpc.cancel","params":[1]}',
        b'{"jsonrpc":"2.0","method":5}',
        b'{"method":"daemon.ping","params":7}',
    ],
)
def test_a_message_without_an_id_is_neither_answered_nor_executed(payload: bytes) -> None:
    assert server_refusals(payload) == []


def test_an_unknown_method_is_refused_and_the_hint_names_the_most_similar_one() -> None:
    problem = request_problem(method="session.sent", params={})
    assert (problem.code, problem.hint) == (-32601, "did you mean session.send?")
    assert request_problem(method="rpc.cancel").hint == "send it without an id"
    assert len(request_problem(method="x" * 1_000_000).message) < 200


@pytest.mark.parametrize(
    ("method", "params", "message", "hint"),
    [
        ("session.send", {"sesion": 1}, "unknown param 'sesion'", "did you mean session?"),
        ("daemon.ping", {"x": 1}, "unknown param 'x'", "params: none"),
        ("session.get", {}, "missing param session", "params: session"),
        ("session.get", [1], "params: expected object, got array", "params: session"),
        ("session.get", None, "params: expected object, got null", "params: session"),
        ("session.get", {"session": "1"}, "session: expected integer, got string", DISCOVER.format("session.get")),
        ("session.get", {"session": 0}, "session: expected integer >= 1", DISCOVER.format("session.get")),
        (
            "session.get",
            {"session": 2**53},
            "session: expected integer <= 9007199254740991",
            DISCOVER.format("session.get"),
        ),
        ("session.get", {"session": True}, "session: expected integer, got true/false", DISCOVER.format("session.get")),
        (
            "session.send",
            {"session": 1, "content": "x", "when_busy": "que"},
            "when_busy: unknown value 'que'",
            "did you mean queue? It must be one of queue, steer, interrupt, reject",
        ),
        (
            "session.wait",
            {"session": 1, "states": ["asleep"]},
            "states[0]: unknown value 'asleep'",
            f"one of {', '.join(get_args(State))}",
        ),
        (
            "session.send",
            {"session": 1, "content": "x", "timeout_s": "5"},
            "timeout_s: expected number or null, got string",
            DISCOVER.format("session.send"),
        ),
        (
            "session.wait",
            {"session": 1, "states": ["int - at `$.x`"]},
            "states[0]: unknown value 'int - at $.x'",
            f"one of {', '.join(get_args(State))}",
        ),
    ],
)
def test_bad_params_are_refused_with_the_path_and_the_most_similar_name(
    method: str, params: object, message: str, hint: str
) -> None:
    problem = request_problem(method=method, params=params)
    assert (problem.kind, problem.message, problem.hint) == ("invalid_params", message, hint)


@pytest.mark.parametrize("method", ["session.send", "session.stream", "agent.run"])
@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (5, "content: expected string or array, got integer", CONTENT),
        ("", "content: expected string of length >= 1", CONTENT),
        ([], "content: expected array of length >= 1", CONTENT),
        ([1], "content[0]: expected object, got integer", PARTS),
        ([{"type": "text"}], "content[0]: missing field text", PARTS),
        ([{"type": "text", "text": ""}], "content[0]: its text is empty", PARTS),
        ([{"type": "txt"}], "content[0].type: unknown value 'txt'", PARTS),
        ([{"type": "text", "text": "x", "x_1": 1}], "content[0]: unknown field 'x_1'", FIELDS),
        (
            [{"type": "text", "text": "x"}, {"type": "image", "media_typ": "x"}],
            "content[1]: unknown field 'media_typ'",
            "did you mean media_type?",
        ),
        ([{"type": "image"}], "content[0]: an image needs either data or a url", PARTS),
        ([{"type": "image", "data": "eA==", "url": "x"}], "content[0]: an image needs either data or a url", PARTS),
        ([{"type": "image", "data": "no base64"}], "content[0]: data is not valid base64", PARTS),
        ([{"type": "image", "data": "é"}], "content[0]: data is not valid base64", PARTS),
        ([{"type": "file", "name": "x"}], "content[0]: a file needs data", PARTS),
        ([{"type": "file", "name": "x", "data": "eA="}], "content[0]: data is not valid base64", PARTS),
    ],
)
def test_a_bad_content_is_refused_with_the_path_to_its_part(
    method: str, content: object, message: str, hint: str
) -> None:
    target = {"agent": "walrus"} if method == "agent.run" else {"session": 1}
    problem = request_problem(method=method, params={**target, "content": content})
    assert (problem.kind, problem.message, problem.hint) == ("invalid_params", message, hint)


def test_valid_parts_are_accepted() -> None:
    content = (
        TextPart("x"),
        ImagePart(media_type="image/png", data="eA=="),
        ImagePart(url="https://x.test/y"),
        FilePart(name="y", data="eA=="),
    )
    params = SendParams(session=1, content=content)
    server = Connection(SERVER)
    server.receive_data(Connection(CLIENT).send(Request(1, "session.send", params)))
    assert list(drain(server)) == [Request(1, "session.send", params)]


def test_unknown_fields_of_a_part_from_a_newer_daemon_are_skipped() -> None:
    body = b'{"type":"user_message","content":[{"type":"image","new":1}]}'
    assert decode(body) == UserMessage(content=(ImagePart(),))


@pytest.mark.parametrize(
    ("members", "message", "hint"),
    [
        ({"parms": {}, "method": "daemon.ping"}, "unknown member 'parms'", "did you mean params?"),
        (
            {"jsonrpc": "1.0", "method": "daemon.ping"},
            'a request must have "jsonrpc": "2.0"',
            "add or correct that member",
        ),
        ({"method": 5}, "a request must name its method", "rpc.discover lists the methods"),
        ({}, "a request must name its method", "rpc.discover lists the methods"),
    ],
)
def test_a_bad_envelope_is_refused_and_the_message_names_the_member(
    members: dict[str, object], message: str, hint: str
) -> None:
    problem = request_problem(**members)
    assert (problem.kind, problem.message, problem.hint) == ("invalid_request", message, hint)


def test_deep_nesting_is_refused_and_the_connection_stays_open() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert server_refusals(deep, b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping","params":%b}' % deep) == [
        (None, "invalid_request", False),
        (None, "invalid_request", False),
    ]


def test_if_a_member_is_repeated_the_last_one_counts() -> None:
    server = Connection(SERVER)
    server.receive_data(wire.frame(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"x","method":"daemon.ping"}'))
    assert list(drain(server)) == [Request(2, "daemon.ping", NoParams())]


def test_a_content_over_the_limit_is_refused_and_one_at_the_limit_is_accepted() -> None:
    server = Connection(SERVER)
    for request, size in (1, wire.MAX_MESSAGE - 2), (2, wire.MAX_MESSAGE - 1):
        params = {"session": 1, "content": "x" * size}
        body = {"jsonrpc": "2.0", "id": request, "method": "session.send", "params": params}
        server.receive_data(wire.frame(json.dumps(body).encode()))
    accepted, refused = drain(server)
    assert isinstance(accepted, Request)
    assert isinstance(refused, RejectedRequest)
    assert refused.problem.message == "content: 4,194,305 bytes as JSON; a message has at most 4,194,304"
