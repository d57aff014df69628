"""A fake OpenAI-compatible server for tests, with scripted answers.

It speaks real HTTP/1.1 on the loopback interface.

In a test:

    async with open_provider() as fake:
        fake.enqueue(replies("Hello"), responds_with(429), cuts_connection("Hel"))  # one per request, in order
        ...  # a client uses fake.url, e.g. http://127.0.0.1:1/v1
        assert fake.requests[0].body["model"] == "m"

When the queue is empty, `fake.choose`, a function of the request, decides; then the behaviour of `set_default`. A
request without any of these gets a 500. Text is sent in one write unless `separate_writes` or a `gate` is given.
A gate is a trio.Event awaited before each piece, or a sequence with one event for each piece.

As a process: `python -m tests.fakes.provider --port 0` prints its URL. There a model named "x-N" answers with N pieces,
each in a separate write; any other model answers with one.
"""

import argparse
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@dataclass
class ReceivedRequest:
    """One request, parsed."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes
    """The body as received."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body["messages"])

    @property
    def last_content(self) -> str:
        """The content of the last message, if that is a text."""
        return str(self.messages[-1]["content"])


class Exchange:
    """The server's side of one request."""

    def __init__(self, stream: trio.SocketStream, request: ReceivedRequest) -> None:
        self._stream = stream
        self.request = request
        self.keep_alive = True

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def wait_disconnect(self) -> None:
        """Waits until the client has closed its side of the connection."""
        self.keep_alive = False
        while await self._stream.receive_some():
            pass

    def close_after(self) -> None:
        """Closes the connection after this answer, whatever its headers say."""
        self.keep_alive = False


Behaviour = Callable[[Exchange], Awaitable[None]]


@dataclass
class FakeProvider:
    """The scripted behaviours of the server, and the requests that it received."""

    port: int
    requests: list[ReceivedRequest] = field(default_factory=list)
    connections: int = 0
    """The number of connections accepted so far."""
    disconnects: int = 0
    """The number of requests whose client disconnected before the answer was complete."""
    choose: Callable[[ReceivedRequest], Behaviour | None] = lambda _: None
    record: bool = True
    _next: deque[Behaviour] = field(default_factory=deque)
    _default: Behaviour | None = None
    _changed: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        """The base_url for a provider's configuration."""
        return f"http://127.0.0.1:{self.port}/v1"

    def enqueue(self, *behaviours: Behaviour) -> None:
        self._next.extend(behaviours)

    def set_default(self, behaviour: Behaviour) -> None:
        self._default = behaviour

    async def wait_until(self, condition: Callable[["FakeProvider"], bool]) -> None:
        """Waits until the condition holds, e.g. `await fake.wait_until(lambda fake: len(fake.requests) == 2)`."""
        while not condition(self):
            await self._changed.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serves one connection. A client may disconnect at any time."""
        self.connections += 1
        self._notify_changed()
        async with stream:
            buffer = bytearray()
            while (request := await _receive(stream, buffer)) is not None:
                exchange = Exchange(stream, request)
                if self.record:
                    self.requests.append(request)
                self._notify_changed()
                try:
                    await self._behaviour(request)(exchange)
                except (trio.BrokenResourceError, _ClientDisconnected):
                    self.disconnects += 1
                    self._notify_changed()
                    return
                if not exchange.keep_alive:
                    return

    def _behaviour(self, request: ReceivedRequest) -> Behaviour:
        if not request.path.endswith("/chat/completions"):
            return responds_with(404, {"error": {"message": f"no such path: {request.path}"}})
        if self._next:
            return self._next.popleft()
        return (
            self.choose(request)
            or self._default
            or responds_with(500, {"error": {"message": "the fake provider has no behaviour for this request"}})
        )

    def _notify_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class _ClientDisconnected(Exception):
    """The client closed its side of the connection."""


@asynccontextmanager
async def open_provider(port: int = 0) -> AsyncIterator[FakeProvider]:
    """Yields a server that listens; the end of the block closes it and all its connections."""
    async with trio.open_nursery() as nursery:
        listener = (await trio.open_tcp_listeners(port, host="127.0.0.1"))[0]
        fake = FakeProvider(listener.socket.getsockname()[1])
        await nursery.start(trio.serve_listeners, fake.serve, [listener])
        yield fake
        nursery.cancel_scope.cancel()


# Behaviours


def replies(
    text: str | Sequence[str] = "",
    *,
    thinking: str = "",
    calls: Sequence[tuple[str, dict[str, Any] | str]] = (),
    usage: dict[str, Any] | None = USAGE,
    finish: str | None = None,
    separate_writes: bool = False,
    gate: trio.Event | Sequence[trio.Event] = (),
) -> Behaviour:
    """Streams an answer. A list of texts is streamed in these pieces; `calls` are (name, arguments)."""
    pieces = [text] if isinstance(text, str) else list(text)
    deltas: list[dict[str, Any]] = [{"role": "assistant"}]
    deltas += [{"reasoning_content": thinking}] if thinking else []
    head = b"".join(map(_chunk, deltas))
    text_chunks = [_chunk({"content": piece}) for piece in pieces if piece]
    tail = b"".join(_call_chunks(calls))
    tail += _chunk({}, finish or ("tool_calls" if calls else "stop"))
    if usage is not None:
        tail += _event({"choices": [], "usage": usage})
    tail += b"data: [DONE]\n\n"
    if not (separate_writes or isinstance(gate, trio.Event) or gate):
        whole = STREAM_HEAD + _http_chunk(head + b"".join(text_chunks) + tail) + LAST_CHUNK

        async def send_whole(exchange: Exchange) -> None:
            await exchange.send(whole)

        return send_whole
    gates = itertools.repeat(gate) if isinstance(gate, trio.Event) else iter(gate)

    async def piece_by_piece(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + _http_chunk(head))
        for piece in text_chunks:
            if (event := next(gates, None)) is not None:
                await event.wait()
            await exchange.send(_http_chunk(piece))
        await exchange.send(_http_chunk(tail) + LAST_CHUNK)

    return piece_by_piece


def calls_tools(*tool_calls: tuple[str, dict[str, Any] | str], text: str = "") -> Behaviour:
    """Streams tool calls: `calls_tools(("read", {"path": "a"}))`."""
    return replies(text, calls=tool_calls)


def responds_with(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Behaviour:
    """Answers with an HTTP status. A body that is not bytes is sent as JSON."""
    if body is None:
        body = {"error": {"message": f"refused with {status}", "type": "error", "code": None}}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return sends_bytes(f"HTTP/1.1 {status} So\r\n{lines}\r\n".encode() + content)


def replies_unstreamed(message: dict[str, Any], finish: str = "stop") -> Behaviour:
    """Answers without streaming, as some servers do even if a stream was requested."""
    return responds_with(200, {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": USAGE})


def streams_events(*events: Any, done: bool = True, head: bool = True) -> Behaviour:
    """Streams these events, bytes as they are and other values as JSON; then ends the response."""
    body = b"".join(b"data: %s\n\n" % event if isinstance(event, bytes) else _event(event) for event in events)
    return sends_bytes(
        (STREAM_HEAD if head else b"") + _http_chunk(body + (b"data: [DONE]\n\n" if done else b"")) + LAST_CHUNK
    )


def sends_bytes(data: bytes) -> Behaviour:
    """Sends exactly these bytes as the whole response."""

    async def send(exchange: Exchange) -> None:
        await exchange.send(data)

    return send


def hangs(text: str = "", *, in_call: str = "") -> Behaviour:
    """Never completes the answer, and waits until the client disconnects, which `disconnects` counts.

    With a text it hangs after sending it; with `in_call`, in the middle of the second of two calls of that tool.
    """
    sent = _chunk({"content": text}) if text else b""
    if in_call:
        sent += b"".join(_call_chunks([(in_call, {}), (in_call, '{"path": "no')]))

    async def hang(exchange: Exchange) -> None:
        if sent:
            await exchange.send(STREAM_HEAD + _http_chunk(sent))
        await exchange.wait_disconnect()
        raise _ClientDisconnected

    return hang


def cuts_connection(text: str = "") -> Behaviour:
    """Closes the connection; with a text, after sending it."""

    async def cut(exchange: Exchange) -> None:
        if text:
            await exchange.send(STREAM_HEAD + _http_chunk(_chunk({"content": text})))
        exchange.close_after()

    return cut


def sends_garbage(data: bytes = b"\x00\x01 this is no HTTP \xff\r\n\r\n") -> Behaviour:
    """Sends bytes that are not HTTP and closes the connection."""

    async def send(exchange: Exchange) -> None:
        await exchange.send(data)
        exchange.close_after()

    return send


# The wire

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


async def _receive(stream: trio.SocketStream, buffer: bytearray) -> ReceivedRequest | None:
    """Returns the next request of a connection, or None at its end."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if not await _receive_more(stream, buffer):
            return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    size = end + 4 + int(headers.get("content-length", "0"))
    while len(buffer) < size:
        if not await _receive_more(stream, buffer):
            return None
    body = bytes(buffer[end + 4 : size])
    del buffer[:size]
    return ReceivedRequest(first.split(" ")[1], headers, json.loads(body or b"{}"), body)


async def _receive_more(stream: trio.SocketStream, buffer: bytearray) -> bool:
    try:
        data = await stream.receive_some()
    except trio.BrokenResourceError:
        return False
    buffer += data
    return bool(data)


def _call_chunks(tool_calls: Sequence[tuple[str, dict[str, Any] | str]]) -> list[bytes]:
    """Returns two chunks for each call, as servers send them: its head, then its arguments."""
    chunks = []
    for index, (name, arguments) in enumerate(tool_calls):
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        head = {"index": index, "id": f"call_{name}_{index}", "type": "function"}
        chunks.append(_chunk({"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]}))
        chunks.append(_chunk({"tool_calls": [{"index": index, "function": {"arguments": text}}]}))
    return chunks


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _event({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "model": "fake", "choices": [choice]})


def _event(body: Any) -> bytes:
    return b"data: %s\n\n" % json.dumps(body).encode()


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""  # an empty chunk would end the response


# The program


async def main(port: int) -> None:
    ready: dict[int, Behaviour] = {}

    def choose(request: ReceivedRequest) -> Behaviour:
        tail = str(request.body.get("model", "")).rpartition("-")[2]
        count = int(tail) if tail.isdigit() else 1
        if count not in ready:
            ready[count] = replies([f"word{n} " for n in range(count)], separate_writes=count > 1)
        return ready[count]

    async with open_provider(port) as fake:
        fake.record, fake.choose = False, choose
        print(fake.url, flush=True)  # noqa: T201 - the parent process reads the URL
        await trio.sleep_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A fake OpenAI-compatible server.")
    parser.add_argument("--port", type=int, default=0)
    trio.run(main, parser.parse_args().port)
