"""Tests of the sans-I/O connection: any chunking of the bytes, limits and ids."""

from collections.abc import Iterator
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

from walrus_protocol import wire
from walrus_protocol.connection import (
    CLIENT,
    NEED_DATA,
    SERVER,
    Cancel,
    ChunkNotification,
    Connection,
    EventNotification,
    Failure,
    ProtocolViolation,
    Request,
    Response,
    encode_error,
    encode_event,
    encode_result,
)
from walrus_protocol.content import TextPart, WhenBusy
from walrus_protocol.methods import AttachParams, CreateParams, CreateResult, SendParams, TurnResult
from walrus_protocol.methods.daemon import Pong
from walrus_protocol.param_types import NoParams
from walrus_protocol.problems import Problem

texts = st.text(st.characters(exclude_categories=["Cs"]))
nonempty_texts = texts.filter(bool)
ids = st.one_of(st.integers(-(2**53) + 1, 2**53 - 1), st.text(st.characters(exclude_categories=["Cs"]), max_size=128))
requests = st.one_of(
    st.builds(Request, ids, st.just("daemon.ping"), st.just(NoParams())),
    st.builds(
        Request,
        ids,
        st.just("session.send"),
        st.builds(
            SendParams,
            session=st.integers(1, 2**53 - 1),
            content=st.one_of(nonempty_texts, st.lists(st.builds(TextPart, nonempty_texts), min_size=1).map(tuple)),
            sender=texts,
            key=st.none() | nonempty_texts,
            when_busy=st.sampled_from(get_args(WhenBusy)),
            timeout_s=st.none() | st.floats(1, 1000),
        ),
    ),
    st.builds(Request, ids, st.just("session.create"), st.builds(CreateParams, agent=texts, title=texts)),
)
results = {
    "daemon.ping": st.builds(Pong),
    "session.create": st.builds(CreateResult, session=st.integers(1, 2**53 - 1)),
    "session.send": st.builds(
        TurnResult,
        session=st.just(1),
        turn=st.integers(1, 9),
        text=texts,
        stop_reason=st.sampled_from(["text_response", "error"]),
    ),
}
failures = st.builds(
    Failure, st.sampled_from(sorted(wire.KINDS.values())), texts, st.sampled_from(sorted(wire.KINDS)), texts
)


def drain(connection: Connection[object]) -> Iterator[object]:
    while (message := connection.next_message()) is not NEED_DATA:
        yield message


def feed_in_chunks(connection: Connection[object], wire_bytes: bytes, data: st.DataObject) -> list[object]:
    """Returns the messages decoded from bytes that arrive in pieces of any size."""
    messages: list[object] = []
    while wire_bytes:
        size = data.draw(st.integers(1, len(wire_bytes)))
        connection.receive_data(wire_bytes[:size])
        wire_bytes = wire_bytes[size:]
        messages += drain(connection)
    return messages


@pytest.mark.slow
@given(st.lists(requests, unique_by=lambda request: (type(request.id), request.id)), st.data())
def test_any_chunking_of_the_bytes_gives_the_same_requests(sent: list[Request], data: st.DataObject) -> None:
    client, server = Connection(CLIENT), Connection(SERVER)
    assert feed_in_chunks(server, b"".join(map(client.send, sent)), data) == sent
    assert server.in_flight == client.in_flight == {request.id for request in sent}


@pytest.mark.slow
@given(st.lists(requests, unique_by=lambda request: (type(request.id), request.id)), st.data())
def test_any_chunking_of_the_bytes_gives_the_same_answers(sent: list[Request], data: st.DataObject) -> None:
    client, server = Connection(CLIENT), Connection(SERVER)
    server.receive_data(b"".join(map(client.send, sent)))
    assert list(drain(server)) == sent
    answers: list[Response | EventNotification | ChunkNotification] = []
    for request in sent:
        if data.draw(st.booleans()):
            answers.append(EventNotification(request.id, Raw(b'{"type":"done"}')))
        if data.draw(st.booleans()):
            answers.append(ChunkNotification(request.id, data.draw(texts)))
        result: st.SearchStrategy[Struct] = st.one_of(results[request.method], failures)
        answers.append(Response(request.id, data.draw(result)))
    assert feed_in_chunks(client, b"".join(map(server.send, answers)), data) == answers
    assert server.in_flight == client.in_flight == frozenset()


def test_a_cancel_of_a_request_in_flight_is_accepted() -> None:
    client, server = Connection(CLIENT), Connection(SERVER)
    attach = Request("a", "session.attach", AttachParams(session=1))
    server.receive_data(client.send(attach) + client.send(Cancel("a")) + client.send(Cancel("b")))
    assert list(drain(server)) == [attach, Cancel("a")]


def test_a_result_over_the_limit_raises_frame_too_large() -> None:
    with pytest.raises(Problem, match="a frame has at most") as caught:
        encode_result(1, TurnResult(session=1, turn=1, text="x" * wire.MAX_FRAME, stop_reason="text_response"))
    assert caught.value.kind == "frame_too_large"


def test_an_error_always_fits_into_a_frame_and_is_always_valid_text() -> None:
    client = Connection(CLIENT)
    client.send(Request(1, "daemon.ping", NoParams()))
    client.receive_data(encode_error(1, Problem("bug", "\udcff" + "\0" * 20_000_000, more="x" * 20_000_000)))
    assert list(drain(client)) == [Response(1, Failure(-32603, "?" + "\0" * 4095, "bug"))]


def test_extra_error_fields_reach_the_client() -> None:
    client = Connection(CLIENT)
    client.send(Request(1, "daemon.ping", NoParams()))
    client.receive_data(encode_error(1, Problem("inbox_full", "full", "wait", retry_after_ms=100)))
    assert list(drain(client)) == [
        Response(1, Failure(-32001, "full", "inbox_full", "wait", {"retry_after_ms": 100})),
    ]


def test_the_bytes_of_an_event_are_passed_on_unchanged() -> None:
    client = Connection(CLIENT)
    client.send(Request("a", "session.attach", AttachParams(session=1)))
    body = b'{"seq":1,  "type":"of_tomorrow", "text":"\xc3\xa9"}'
    client.receive_data(encode_event("a", body) + encode_event("b", body))
    assert list(drain(client)) == [EventNotification("a", Raw(body))]


def test_a_client_skips_unknown_notifications_and_fields() -> None:
    client = Connection(CLIENT)
    client.send(Request(1, "session.create", CreateParams(agent="a")))
    client.receive_data(wire.frame(b'{"jsonrpc":"2.0","method":"weather","params":{"sun":true}}'))
    client.receive_data(wire.frame(b'{"jsonrpc":"2.0","id":1,"x":1,"result":{"session":3,"colour":"red"}}'))
    assert list(drain(client)) == [Response(1, CreateResult(session=3))]


def test_an_undecodable_result_fails_its_request_alone() -> None:
    client = Connection(CLIENT)
    client.send(Request(1, "session.create", CreateParams(agent="a")))
    client.receive_data(wire.frame(b'{"jsonrpc":"2.0","id":1,"result":{"session":"three"}}'))
    (message,) = drain(client)
    assert isinstance(message, Response)
    assert isinstance(message.result, Failure)
    assert message.result.kind == "protocol"


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", wire.frame(b"nonsense"), wire.frame(b"[]"), wire.frame(b'{"id":{}}')]
)
def test_a_client_rejects_frames_of_another_protocol(data: bytes) -> None:
    client = Connection(CLIENT)
    client.receive_data(data)
    with pytest.raises(ProtocolViolation):
        client.next_message()


def test_a_client_may_not_use_an_id_twice() -> None:
    client = Connection(CLIENT)
    ping = Request(1, "daemon.ping", NoParams())
    client.send(ping)
    with pytest.raises(ValueError, match="already in flight"):
        client.send(ping)


def test_in_frame_is_true_while_a_frame_is_incomplete() -> None:
    server = Connection(SERVER)
    framed = wire.frame(b'{"jsonrpc":"2.0","id":1,"method":"daemon.ping"}')
    in_frame = []
    for piece in (framed[:3], framed[3:9], framed[9:]):
        server.receive_data(piece)
        list(drain(server))
        in_frame.append(server.in_frame)
    assert in_frame == [True, True, False]
