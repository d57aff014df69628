"""Tests of the blocking client over a real socket: results, streams and unreachable daemons."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from tests.fakes.daemon import FakeCall, FakeDaemon, HangUp, fails, returns
from walrus_protocol import wire
from walrus_protocol.client import Client, RequestFailed, TimedOut, Unreachable
from walrus_protocol.events import Done, TextDelta
from walrus_protocol.methods import CreateResult, TurnResult
from walrus_protocol.methods.daemon import Pong
from walrus_protocol.methods.export_import import ExportResult

TURN_RESULT = TurnResult(session=1, turn=1, text="hello", stop_reason="text_response", first_seq=2, last_seq=4)


def reply_hello(call: FakeCall) -> Struct:
    call.emit(TextDelta(text="hello", round=1, at=0, session=1, turn=1), Done(stop_reason="text_response", seq=4))
    return TURN_RESULT


@contextmanager
def fake_listener(path: Path, serve_connection: Callable[[socket.socket], object]) -> Iterator[None]:
    """Runs a listener that is not walrusd: it passes its only connection to `serve_connection`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                serve_connection(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "walrus.sock"


def test_consecutive_calls_share_a_connection(path: Path) -> None:
    script = {"daemon.ping": returns(Pong()), "session.create": returns(CreateResult(session=7))}
    with FakeDaemon(path, script) as daemon, Client(path) as client:
        assert client.call("daemon.ping") == {}
        assert client.call("session.create", {"agent": "walrus"}) == {"session": 7}
        assert client.call("daemon.ping", {}) == {}
        assert daemon.connections == 1


def test_a_stream_yields_events_and_then_its_result(path: Path) -> None:
    with FakeDaemon(path, {"session.stream": reply_hello}), Client(path) as client:
        with client.stream("session.stream", {"session": 1, "content": "hi"}) as turn:
            with pytest.raises(RuntimeError, match="has not answered yet"):
                turn.result  # noqa: B018  (reading it raises)
            assert [event["type"] for event in turn] == ["text_delta", "done"]
        assert turn.result["text"] == "hello"
        assert list(turn) == []


def test_a_document_comes_in_chunks_and_then_its_result(path: Path) -> None:
    def document(call: FakeCall) -> Struct:
        call.emit_chunks('{"a":', "1}")
        return ExportResult(events=0, bytes=7)

    with FakeDaemon(path, {"session.export": document}), Client(path) as client:
        with client.chunks("session.export", {"session": 1}) as chunks:
            assert [*chunks] == ['{"a":', "1}"]
        assert chunks.result == client.call("session.export", {"session": 1}) == {"events": 0, "bytes": 7}


def test_a_call_of_a_streaming_method_skips_its_events(path: Path) -> None:
    with FakeDaemon(path, {"session.stream": reply_hello}), Client(path) as client:
        assert client.call("session.stream", {"session": 1, "content": "hi"})["last_seq"] == 4


def test_exiting_a_stream_early_cancels_it_and_the_connection_stays_usable(path: Path) -> None:
    def endless(call: FakeCall) -> Struct:
        call.emit(TextDelta(text="a", round=1, at=0), TextDelta(text="b", round=1, at=1))
        return call.wait_for_cancel()

    script = {"session.stream": endless, "daemon.ping": returns(Pong())}
    with FakeDaemon(path, script) as daemon, Client(path) as client:
        with client.stream("session.stream", {"session": 1, "content": "hi"}) as turn:
            assert next(turn)["text"] == "a"
            with pytest.raises(RuntimeError, match="still under way"):
                client.call("daemon.ping")
        assert client.call("daemon.ping") == {}
        daemon.wait_until(lambda fake: len(fake.cancelled) == 1)


def test_a_failed_request_carries_every_field_of_the_error(path: Path) -> None:
    script = {"session.send": fails("inbox_full", "64 messages wait", "try again", retry_after_ms=100)}
    with FakeDaemon(path, script), Client(path) as client, pytest.raises(RequestFailed, match="64 messages") as failed:
        client.call("session.send", {"session": 1, "content": "hi"})
    error = failed.value
    assert (error.code, error.kind, error.hint, error.data) == (
        wire.BUSY,
        "inbox_full",
        "try again",
        {"retry_after_ms": 100},
    )


def test_an_error_without_a_request_id_fails_the_waiting_request(path: Path) -> None:
    def refuse_connection(sock: socket.socket) -> None:
        error = b'{"code":-32001,"message":"512 are open","data":{"kind":"too_many_connections","hint":""}}'
        sock.sendall(wire.frame(b'{"jsonrpc":"2.0","id":null,"error":%b}' % error))

    refused = pytest.raises(RequestFailed, match="512 are open")
    with fake_listener(path, refuse_connection), Client(path) as client, refused:
        client.call("daemon.ping")


def test_a_timeout_ends_the_wait_and_the_connection_stays_usable(path: Path) -> None:
    script = {"session.send": FakeCall.wait_for_cancel, "daemon.ping": returns(Pong())}
    with FakeDaemon(path, script) as daemon, Client(path, timeout=0.05) as client:
        with pytest.raises(TimedOut, match=r"no answer to session\.send within 0\.05 s"):
            client.call("session.send", {"session": 1, "content": "hi"})
        daemon.wait_until(lambda fake: len(fake.cancelled) == 1)
        client.timeout = 30
        assert client.call("daemon.ping") == {}


def test_a_timeout_limits_the_whole_stream(path: Path) -> None:
    def emit_forever(call: FakeCall) -> Struct:
        while not call.cancelled.wait(0.001):
            call.emit(TextDelta(text="a", round=1, at=0))
        return call.wait_for_cancel()

    with (
        FakeDaemon(path, {"session.stream": emit_forever}),
        Client(path, timeout=0.1) as client,
        pytest.raises(TimedOut),
    ):
        client.call("session.stream", {"session": 1, "content": "hi"})


def test_a_daemon_that_hangs_up_is_unreachable(path: Path) -> None:
    def crash(_: FakeCall) -> Struct:
        raise HangUp

    unreachable = pytest.raises(Unreachable, match=r"hung up before it answered session\.send")
    with FakeDaemon(path, {"session.send": crash}), Client(path) as client, unreachable:
        client.call("session.send", {"session": 1, "content": "hi"})


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", wire.frame(b"{"), wire.frame(b"[]"), wire.frame(b'{"id":1}')]
)
def test_a_server_of_another_protocol_is_reported_as_such(path: Path, greeting: bytes) -> None:
    wrong_protocol = pytest.raises(Unreachable, match="does not speak the protocol of walrusd")
    with fake_listener(path, lambda sock: sock.sendall(greeting)), Client(path) as client, wrong_protocol:
        client.call("daemon.ping")


def test_the_error_for_a_missing_socket_says_how_to_start_walrusd(path: Path) -> None:
    with pytest.raises(Unreachable, match="is not running: there is no socket at") as error:
        Client(path)
    assert error.value.hint == "start it with `walrusd`, the first time with `walrusd --init`"


def test_a_stale_socket_means_that_walrusd_is_not_running(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(Unreachable, match="is not running: nothing listens at"):
        Client(path)


def test_a_socket_path_that_is_too_long_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="too long"):
        Client(tmp_path / ("x" * 120))


def test_the_error_for_a_file_that_is_not_a_socket_names_its_path(path: Path) -> None:
    path.touch()
    with pytest.raises(Unreachable, match=str(path)):
        Client(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_socket_that_this_user_may_not_open_is_reported_as_such(path: Path) -> None:
    with FakeDaemon(path, {}):
        path.chmod(0)
        with pytest.raises(Unreachable, match="may not be opened by this user"):
            Client(path)


def test_text_that_cannot_be_encoded_is_refused_before_it_is_sent(path: Path) -> None:
    with FakeDaemon(path, {"daemon.ping": returns(Pong())}) as daemon, Client(path) as client:
        with pytest.raises(RequestFailed, match="not UTF-8"):
            client.call("session.send", {"session": 1, "content": "\udcff"})
        with pytest.raises(RequestFailed, match="at most"):
            client.call("session.send", {"session": 1, "content": "x" * wire.MAX_FRAME})
        assert client.call("daemon.ping") == {}
        assert len(daemon.requests) == 1
