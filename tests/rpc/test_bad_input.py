"""Tests of invalid requests: each gets an error with the reason, and other requests are unaffected."""

import json

import pytest
import trio

from tests.fakes.home import WalrusdProcess
from tests.rpc.raw_client import RawClient, encode_frame, open_raw_client, request
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.client import RequestFailed
from walrus_protocol.methods import CreateParams, HistoryParams, SendParams, SessionParams
from walrus_protocol.wire import KINDS, MAX_FRAME, MAX_MESSAGE, Kind

DEEP_REQUEST = b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
SURROGATE_REQUEST = b'{"jsonrpc":"2.0","id":1,"method":"session.send","params":{"session":1,"content":"\\ud800"}}'


async def is_alive(raw_client: RawClient) -> bool:
    return "result" in await raw_client.call("daemon.ping", id="alive")


@pytest.mark.parametrize(
    ("method", "params", "kind", "message", "hint"),
    [
        ("session.sned", {"session": 1}, "method_not_found", "session.sned", "session.send"),
        ("", {}, "method_not_found", "''", "rpc.discover"),
        ("x" * 10_000, {}, "method_not_found", "xxx", "rpc.discover"),
        ("session.create", {"agent": "ehco"}, "agent_not_found", "ehco", "echo"),
        ("session.create", {"agent": "zzzzzzz"}, "agent_not_found", "zzzzzzz", "agent list"),
        ("agent.get", {"agent": "fkae"}, "agent_not_found", "fkae", "fake"),
        ("agent.run", {"agent": "eco", "content": "hi"}, "agent_not_found", "eco", "echo"),
        ("session.get", {"session": 999_999}, "session_not_found", "999999", "session list"),
        ("session.send", {"session": 999_999, "content": "hi"}, "session_not_found", "999999", "session list"),
        ("session.stream", {"session": 999_999, "content": "hi"}, "session_not_found", "999999", "session list"),
        ("session.attach", {"session": 999_999}, "session_not_found", "999999", "session list"),
        ("session.history", {"session": 999_999}, "session_not_found", "999999", "session list"),
        ("session.interrupt", {"session": 999_999}, "session_not_found", "999999", "session list"),
        ("session.close", {"session": 999_999}, "session_not_found", "999999", "session list"),
        ("session.wait", {"session": 999_999, "states": ["idle"]}, "session_not_found", "999999", "session list"),
        ("session.create", {"agnet": "echo"}, "invalid_params", "agnet", "agent"),
        ("session.create", {}, "invalid_params", "agent", "agent"),
        ("session.create", {"agent": 7}, "invalid_params", "agent: expected string, got integer", ""),
        ("session.create", {"agent": None}, "invalid_params", "agent: expected string, got null", ""),
        ("session.get", {"session": "1"}, "invalid_params", "session: expected integer, got string", ""),
        ("session.get", {"session": 1.5}, "invalid_params", "session", ""),
        ("session.get", {"session": True}, "invalid_params", "session: expected integer, got true/false", ""),
        ("session.get", {"session": 0}, "invalid_params", "session", ""),
        ("session.get", {"session": -1}, "invalid_params", "session", ""),
        ("session.get", {"session": 2**53}, "invalid_params", "session", ""),
        ("session.get", {"session": 10**30}, "invalid_params", "session", ""),
        ("session.send", {"session": 1, "content": {}}, "invalid_params", "content", ""),
        ("session.send", {"session": 1, "content": [{"type": "sound"}]}, "invalid_params", "content[0]", ""),
        ("session.send", {"session": 1, "content": "x", "when_busy": "wait"}, "invalid_params", "when_busy", "steer"),
        ("session.send", {"session": 1, "content": "x", "timeout_s": 0}, "invalid_params", "timeout_s", ""),
        ("session.wait", {"session": 1, "states": []}, "invalid_params", "states", ""),
        ("session.wait", {"session": 1, "states": ["busy"]}, "invalid_params", "states[0]", "processing"),
        ("session.list", {"state": "open"}, "invalid_params", "state", "closed"),
        ("daemon.ping", {"loud": True}, "invalid_params", "loud", ""),
        ("daemon.ping", [], "invalid_params", "params: expected object, got array", ""),
        ("session.get", [1], "invalid_params", "params: expected object, got array", ""),
        ("session.get", "1", "invalid_params", "params: expected object, got str", ""),
    ],
)
async def test_a_bad_request_gets_an_error_with_the_reason_and_the_connection_stays_open(
    raw_client: RawClient, method: str, params: object, kind: Kind, message: str, hint: str
) -> None:
    answer = await raw_client.call(method, params, id="mine")
    assert answer["id"] == "mine"
    error = answer["error"]
    assert (error["data"]["kind"], error["code"]) == (kind, KINDS[kind])
    assert message in error["message"]
    assert hint in error["data"]["hint"]
    assert len(json.dumps(error)) < 2_000
    assert await is_alive(raw_client)


@pytest.mark.parametrize(
    ("payload", "answered"),
    [
        (b'[{"jsonrpc":"2.0","id":1,"method":"daemon.ping"}]', None),
        (b"[]", None),
        (b"1", None),
        (b'"daemon.ping"', None),
        (b"null", None),
        (b'{"jsonrpc":"1.0","id":1,"method":"daemon.ping"}', 1),
        (b'{"id":1,"method":"daemon.ping"}', 1),
        (b'{"jsonrpc":"2.0","id":1}', 1),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping","parms":{}}', 1),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', 1),
        (b'{"jsonrpc":"2.0","id":null,"method":"daemon.ping"}', None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"daemon.ping"}', None),
        (b'{"jsonrpc":"2.0","id":true,"method":"daemon.ping"}', None),
        (b'{"jsonrpc":"2.0","id":[1],"method":"daemon.ping"}', None),
        (b'{"jsonrpc":"2.0","id":{},"method":"daemon.ping"}', None),
        (b'{"jsonrpc":"2.0","id":"%b","method":"daemon.ping"}' % (b"x" * 129), None),
        (b'{"jsonrpc":"2.0","id":9007199254740992,"method":"daemon.ping"}', None),
    ],
)
async def test_json_that_is_not_a_request_gets_an_error_and_the_connection_stays_open(
    raw_client: RawClient, payload: bytes, answered: object
) -> None:
    await raw_client.send_bytes(encode_frame(payload))
    answer = await raw_client.receive()
    assert (answer["id"], answer["error"]["code"]) == (answered, -32600)
    assert answer["error"]["data"]["kind"] == "invalid_request"
    assert await is_alive(raw_client)


async def test_json_that_is_nested_too_deeply_is_refused(raw_client: RawClient) -> None:
    await raw_client.send_bytes(encode_frame(DEEP_REQUEST))
    error = (await raw_client.receive())["error"]
    assert error["code"] in (-32600, -32602)
    assert "nested too deeply" in error["message"]
    assert await is_alive(raw_client)


async def test_a_lone_surrogate_is_refused_and_named(raw_client: RawClient) -> None:
    await raw_client.send_bytes(encode_frame(SURROGATE_REQUEST))
    answer = await raw_client.receive()
    assert (answer["id"], answer["error"]["code"]) == (1, -32602)
    assert "surrogate" in answer["error"]["message"]
    assert await is_alive(raw_client)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x01\x02\xff",
        b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping"} {}',
        b'{"jsonrpc":"2.0","id":1,"method":"session.wait","params":{"session":1,"states":["idle"],"timeout_s":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping","params":{"\xff":1}}',
        b'{"jsonrpc":"2.0","id":Infinity,"method":"daemon.ping"}',
    ],
)
async def test_a_frame_that_is_not_json_gets_an_error_and_the_connection_is_closed(
    raw_client: RawClient, payload: bytes
) -> None:
    await raw_client.send_bytes(encode_frame(payload) + encode_frame(json.dumps(request("daemon.shutdown")).encode()))
    error = (await raw_client.receive())["error"]
    assert (error["code"], error["data"]["kind"]) == (-32700, "parse_error")
    assert await raw_client.receive_or_end() is None, "a request after an invalid frame is not executed"


async def test_a_frame_over_the_cap_gets_an_error_and_the_connection_is_closed(raw_client: RawClient) -> None:
    await raw_client.send_bytes((MAX_FRAME + 1).to_bytes(4, "big") + b"{")
    answer = await raw_client.receive()
    assert (answer["id"], answer["error"]["code"]) == (None, -32600)
    assert (answer["error"]["data"]["kind"], await raw_client.receive_or_end()) == ("frame_too_large", None)


async def test_an_http_request_gets_an_error_and_the_connection_is_closed(raw_client: RawClient) -> None:
    await raw_client.send_bytes(b"GET / HTTP/1.1\r\nHost: walrus\r\n\r\n")
    assert (await raw_client.receive())["error"]["data"]["kind"] == "frame_too_large"
    assert await raw_client.receive_or_end() is None


async def test_a_frame_of_exactly_the_cap_is_accepted(raw_client: RawClient) -> None:
    message = json.dumps(request("daemon.ping", id=1)).encode()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw_client.send_bytes, encode_frame(message + b" " * (MAX_FRAME - len(message))))
        assert (await raw_client.receive())["result"] == {}


async def test_a_message_over_four_mebibytes_is_refused(raw_client: RawClient, client: AsyncClient) -> None:
    session = (await client.create(CreateParams(agent="echo"))).session
    error = (await raw_client.call("session.send", {"session": session, "content": "x" * (MAX_MESSAGE - 1)}))["error"]
    assert (error["code"], error["data"]["kind"]) == (-32602, "invalid_params")
    assert "content" in error["message"]
    assert error["data"]["hint"]
    assert (await client.session(SessionParams(session=session))).messages == 0


async def test_a_message_of_exactly_four_mebibytes_is_accepted(raw_client: RawClient, client: AsyncClient) -> None:
    session = (await client.create(CreateParams(agent="echo"))).session
    answer = await raw_client.call("session.send", {"session": session, "content": "x" * (MAX_MESSAGE - 2)})
    assert len(answer["result"]["text"]) == MAX_MESSAGE - 2


@pytest.mark.parametrize("partial", [b"\x00\x00", b"\x00\x00\x01\x00", b'\x00\x00\x01\x00{"jsonrpc":"2.0",'])
async def test_a_connection_that_ends_within_a_frame_makes_no_request(
    daemon: WalrusdProcess, client: AsyncClient, partial: bytes
) -> None:
    async with open_raw_client(daemon.socket) as raw_client:
        await raw_client.send_bytes(partial)
        await raw_client.stream.send_eof()
        assert await raw_client.receive_or_end() is None
    await client.ping()


async def test_a_connection_is_closed_when_the_peer_closes_its_sending_side(
    daemon: WalrusdProcess, client: AsyncClient
) -> None:
    async with open_raw_client(daemon.socket) as raw_client:
        await raw_client.stream.send_eof()
        assert await raw_client.receive_or_end() is None
    await client.ping()


async def test_a_request_may_arrive_one_byte_at_a_time(raw_client: RawClient) -> None:
    for byte in encode_frame(json.dumps(request("daemon.ping")).encode()):
        await raw_client.send_bytes(bytes([byte]))
    assert (await raw_client.receive())["result"] == {}


async def test_content_comes_back_as_it_was_sent(client: AsyncClient) -> None:
    session = (await client.create(CreateParams(agent="echo", title="\u2028\x00\x1b[31m"))).session
    text = 'a "quote" \\ a\x00nul \x1b[31m \u2028 \U0001f9ad 你好\r\n\ttab'
    assert (await client.send(SendParams(session=session, content=text))).text == text
    history = (await client.history(HistoryParams(session=session))).messages
    assert [getattr(message, "content", None) for message in history] == [text, text]
    assert (await client.session(SessionParams(session=session))).title == "\u2028\x00\x1b[31m"


async def test_an_empty_message_is_refused(client: AsyncClient) -> None:
    session = (await client.create(CreateParams(agent="echo"))).session
    for empty in "", ():
        with pytest.raises(RequestFailed, match="length >= 1") as refused:
            await client.send(SendParams(session=session, content=empty))
        assert refused.value.kind == "invalid_params"
