"""A fake walrusd: a real socket and protocol connection, with a scripted handler for each method."""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from walrus_protocol import events, wire
from walrus_protocol.connection import (
    NEED_DATA,
    SERVER,
    Cancel,
    Connection,
    RejectedRequest,
    Request,
    encode_chunk,
    encode_error,
    encode_event,
    encode_result,
)
from walrus_protocol.problems import Problem


class HangUp(Exception):
    """Raised by a handler to close the connection without an answer."""


class FakeCall:
    """A request as a handler sees it: its params, methods that emit events, and a flag for cancellation."""

    def __init__(self, request: Request, send: Callable[[bytes], None]) -> None:
        self.request = request
        self.cancelled = threading.Event()
        self._send = send

    def emit(self, *new_events: events.AnyEvent) -> None:
        for event in new_events:
            self.emit_json(events.encode(event))

    def emit_json(self, body: bytes) -> None:
        self._send(encode_event(self.request.id, body))

    def emit_chunks(self, *pieces: str) -> None:
        for piece in pieces:
            self._send(encode_chunk(self.request.id, piece))

    def send_raw(self, data: bytes) -> None:
        self._send(data)

    def wait_for_cancel(self) -> Struct:
        """Sends no answer until the client cancels or the daemon stops; then raises the error `cancelled`."""
        self.cancelled.wait(30)
        raise Problem("cancelled", "the wait was cancelled")


Handler = Callable[[FakeCall], Struct]


class FakeDaemon:
    """Serves the methods of `script`, each request in its own thread; records them in `requests`."""

    def __init__(self, path: Path, script: Mapping[str, Handler]) -> None:
        self.path = path
        self.script = dict(script)
        self.requests: list[Request] = []
        self.cancelled: list[Cancel] = []
        self.connections = 0
        self._changed = threading.Condition()
        self._calls: set[FakeCall] = set()
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Closes all connections and joins all threads. May be called twice."""
        _shut_down(self._listener)
        with self._changed:
            for call in self._calls:
                call.cancelled.set()
            for sock in self._socks:
                _shut_down(sock)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(10)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def wait_until(self, condition: Callable[["FakeDaemon"], bool]) -> None:
        """Waits until the condition holds; it is checked after each request, cancel and connection."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), 10), "the condition did not become true in time"

    def params(self, method: str) -> list[Struct]:
        return [request.params for request in self.requests if request.method == method]

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with self._changed:
                    self.connections += 1
                    self._socks.add(sock)
                    self._changed.notify_all()
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(SERVER)
        lock = threading.Lock()
        calls: dict[object, FakeCall] = {}

        def send(data: bytes) -> None:
            with lock, contextlib.suppress(OSError):
                sock.sendall(data)

        with contextlib.suppress(OSError):
            while data := sock.recv(65536):
                connection.receive_data(data)
                while (message := connection.next_message()) is not NEED_DATA:
                    match message:
                        case Request():
                            calls[message.id] = call = FakeCall(message, send)
                            self._note(self.requests, message, call)
                            self._start(self._answer, sock, connection, call, send)
                        case Cancel():
                            self._note(self.cancelled, message)
                            calls[message.id].cancelled.set()
                        case RejectedRequest():
                            send(connection.send(message))
                            if message.close:
                                _shut_down(sock)
        for call in calls.values():
            call.cancelled.set()
        with self._changed:
            self._socks.discard(sock)
        sock.close()

    def _answer(
        self, sock: socket.socket, connection: Connection[object], call: FakeCall, send: Callable[[bytes], None]
    ) -> None:
        try:
            handler = self.script.get(call.request.method)
            if handler is None:
                raise Problem("not_available_yet", f"{call.request.method} is not in the script")
            answer = encode_result(call.request.id, handler(call))
        except Problem as problem:
            answer = encode_error(call.request.id, problem)
        except HangUp:
            _shut_down(sock)
            return
        connection.mark_answered(call.request.id)
        send(answer)

    def _note(self, log: list[Request] | list[Cancel], message: Request | Cancel, call: FakeCall | None = None) -> None:
        with self._changed:
            log.append(message)  # type: ignore[arg-type]  # the caller pairs the two
            if call is not None:
                self._calls.add(call)
            self._changed.notify_all()


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def returns(result: Struct) -> Handler:
    """Returns a handler that always answers with `result`."""
    return lambda _: result


def fails(kind: wire.Kind, message: str, hint: str = "", **data: object) -> Handler:
    """Returns a handler that always answers with an error of this kind."""

    def handler(_: FakeCall) -> Struct:
        raise Problem(kind, message, hint, **data)

    return handler
