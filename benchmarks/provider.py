"""A fake provider that uses as little CPU as possible.

It serves HTTP/1.1 and server-sent events from a raw epoll loop.

    python -m benchmarks.provider        # prints its base URL

The model's name selects the answer: `say` a short text in one write; `stream-N-GAP` N tokens, each in a separate write,
GAP microseconds apart (0: as fast as the socket accepts them). `GET /v1/last` returns the body of the last request.
It neither parses nor encodes JSON, so that the floor is the client's work and not the server's.
"""

import re
import selectors
import socket
import threading
import time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
MODEL = re.compile(rb'"model": ?"([^"]*)"')
CHUNK = (
    b'data: {"id":"chatcmpl-9f3a7c51","object":"chat.completion.chunk","created":1795000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n'
)
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":40,"completion_tokens":9,"total_tokens":49}}\n\n'
FIRST = CHUNK % (b'{"role":"assistant","content":""}', b"null")
LAST = CHUNK % (b"{}", b'"stop"') + USAGE + b"data: [DONE]\n\n"
ANSWER = CHUNK % (b'{"content":"A short answer, as a model gives it when it is asked little."}', b"null")
TOKEN = CHUNK % (b'{"content":" word"}', b"null")


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


FULL_RESPONSE = HEAD + http_chunk(FIRST + ANSWER + LAST) + b"0\r\n\r\n"


class BenchmarkProvider:
    """The event loop with its connections and the unfinished request of each."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._buffers: dict[socket.socket, bytes] = {}
        self._last_body = b""

    def serve(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffers[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(262144)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            del self._buffers[connection]
            connection.close()
            return
        data = self._buffers[connection] + data
        end = data.find(b"\r\n\r\n")
        length = LENGTH.search(data, 0, end) if end >= 0 else None
        if end < 0 or len(data) < end + 4 + (int(length[1]) if length else 0):
            self._buffers[connection] = data
            return
        self._buffers[connection] = b""  # one request at a time on a connection: the clients do not pipeline
        self._answer(connection, data[:end], data[end + 4 :])

    def _answer(self, connection: socket.socket, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self._last_body), self._last_body)
            )
            return
        self._last_body = body
        model = MODEL.search(body)
        name = model[1].decode() if model else ""
        if name.startswith("stream-"):
            _, count, gap = name.split("-")
            threading.Thread(target=_stream, args=(connection, int(count), int(gap) / 1e6), daemon=True).start()
        else:
            connection.sendall(FULL_RESPONSE)


def _stream(connection: socket.socket, count: int, gap_s: float) -> None:
    token = http_chunk(TOKEN)
    try:
        connection.sendall(HEAD + http_chunk(FIRST))
        due = time.perf_counter()
        for _ in range(count):
            connection.sendall(token)
            due += gap_s
            if (early := due - time.perf_counter()) > 0:
                time.sleep(early)
        connection.sendall(http_chunk(LAST) + b"0\r\n\r\n")
    except OSError:
        pass  # the client has disconnected


if __name__ == "__main__":
    provider = BenchmarkProvider()
    print(f"http://127.0.0.1:{provider.port}/v1", flush=True)
    provider.serve()
