"""The blocking client against a real socket: answers, streams, and every way in which a daemon is not there."""

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
    """A listener that is no walrusd: `behave` does with its one connection what it likes."""
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


def test_calls_one_after_the_other_share_a_connection(path: Path) -> None:
    script = {"daemon.ping": returns(Pong()), "session.create": returns(CreateResult(session=7))}
    with FakeDaemon(path, script) as daemon, Client(path) as client:
        assert client.call("daemon.ping") == {}
        assert client.call("session.create", {"agent": "walrus"}) == {"session": 7}
        assert client.call("daemon.ping", {}) == {}
        assert daemon.connections == 1


def test_a_stream_gives_events_and_then_its_result(path: Path) -> None:
    with FakeDaemon(path, {"session.stream": reply_hello}), Client(path) as client:
        with client.stream("session.stream", {"session": 1, "content": "hi"}) as turn:
            with pytest.raises(RuntimeError, match="has not answered yet"):
                turn.result  # noqa: B018  (reading it is the act)
            assert [event["type"] for event in turn] == ["text_delta", "done"]
        assert turn.result["text"] == "hello"
        assert list(turn) == []


def test_a_document_comes_in_pieces_and_then_its_result(path: Path) -> None:
    def document(call: FakeCall) -> Struct:
        call.emit_chunks('{"a":', "1}")
        return ExportResult(events=0, bytes=7)

    with FakeDaemon(path, {"session.export": document}), Client(path) as client:
        with client.chunks("session.export", {"session": 1}) as pieces:
            assert [*pieces] == ['{"a":', "1}"]
        assert pieces.result == client.call("session.export", {"session": 1}) == {"events": 0, "bytes": 7}


def test_a_call_of_a_streaming_method_passes_over_its_events(path: Path) -> None:
    with FakeDaemon(path, {"session.stream": reply_hello}), Client(path) as client:
        assert client.call("session.stream", {"session": 1, "content": "hi"})["last_seq"] == 4


def test_a_stream_left_early_is_cancelled_and_the_connection_goes_on(path: Path) -> None:
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
    def turn_away(sock: socket.socket) -> None:
        error = b'{"code":-32001,"message":"512 are open","data":{"kind":"too_many_connections","hint":""}}'
        sock.sendall(wire.frame(b'{"jsonrpc":"2.0","id":null,"error":%b}' % error))

    with fake_listener(path, turn_away), Client(path) as client, pytest.raises(RequestFailed, match="512 are open"):
        client.call("daemon.ping")


def test_a_timeout_ends_the_wait_and_the_connection_goes_on(path: Path) -> None:
    script = {"session.send": FakeCall.wait_for_cancel, "daemon.ping": returns(Pong())}
    with FakeDaemon(path, script) as daemon, Client(path, timeout=0.05) as client:
        with pytest.raises(TimedOut, match=r"no answer to session\.send within 0\.05 s"):
            client.call("session.send", {"session": 1, "content": "hi"})
        daemon.wait_until(lambda fake: len(fake.cancelled) == 1)
        client.timeout = 30
        assert client.call("daemon.ping") == {}


def test_a_timeout_counts_the_whole_stream(path: Path) -> None:
    def chatter(call: FakeCall) -> Struct:
        while not call.cancelled.wait(0.001):
            call.emit(TextDelta(text="a", round=1, at=0))
        return call.wait_for_cancel()

    with FakeDaemon(path, {"session.stream": chatter}), Client(path, timeout=0.1) as client, pytest.raises(TimedOut):
        client.call("session.stream", {"session": 1, "content": "hi"})


def test_a_daemon_that_hangs_up_is_unreachable(path: Path) -> None:
    def crash(_: FakeCall) -> Struct:
        raise HangUp

    gone = pytest.raises(Unreachable, match=r"hung up before it answered session\.send")
    with FakeDaemon(path, {"session.send": crash}), Client(path) as client, gone:
        client.call("session.send", {"session": 1, "content": "hi"})


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", wire.frame(b"{"), wire.frame(b"[]"), wire.frame(b'{"id":1}')]
)
def test_a_server_of_another_protocol_is_reported_as_no_walrusd(path: Path, greeting: bytes) -> None:
    foreign = pytest.raises(Unreachable, match="does not speak as walrusd does")
    with fake_listener(path, lambda sock: sock.sendall(greeting)), Client(path) as client, foreign:
        client.call("daemon.ping")


def test_no_socket_means_not_running_and_says_how_to_start(path: Path) -> None:
    with pytest.raises(Unreachable, match="is not running: there is no socket at") as error:
        Client(path)
    assert error.value.hint == "start it with `walrusd`, or `make run` in its source folder"


def test_a_socket_left_behind_means_not_running(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(Unreachable, match="is not running: nothing listens at"):
        Client(path)


def test_a_path_too_long_is_named_so(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="too long"):
        Client(tmp_path / ("x" * 120))


def test_a_file_that_is_no_socket_is_named_so(path: Path) -> None:
    path.touch()
    with pytest.raises(Unreachable, match=str(path)):
        Client(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_socket_of_another_is_named_so(path: Path) -> None:
    with FakeDaemon(path, {}):
        path.chmod(0)
        with pytest.raises(Unreachable, match="may not be opened by this user"):
            Client(path)


def test_text_that_cannot_be_sent_is_refused_before_it_is(path: Path) -> None:
    with FakeDaemon(path, {"daemon.ping": returns(Pong())}) as daemon, Client(path) as client:
        with pytest.raises(RequestFailed, match="no UTF-8"):
            client.call("session.send", {"session": 1, "content": "\udcff"})
        with pytest.raises(RequestFailed, match="at most"):
            client.call("session.send", {"session": 1, "content": "x" * wire.MAX_FRAME})
        assert client.call("daemon.ping") == {}
        assert len(daemon.requests) == 1
