"""Records a conversation with a real walrusd, byte for byte: each request and all replies to it.

    python -m tests.rpc.recorded_wire      # before a release; a recording of an older one never changes

Values that differ from run to run (times, process ids, sizes, the home) are masked in the bytes.
"""

import json
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import walrusd
from tests.fakes.home import ROOT, Home
from tests.rpc.raw_client import encode_frame

FOLDER = Path(__file__).parent / "recorded"
TOUR = ROOT / "docs" / "tour"
TIMEOUT_S = 30.0

REQUESTS: list[tuple[str, dict[str, object]]] = [
    ("daemon.ping", {}),
    ("daemon.hello", {"client": "recorder", "protocol": 1}),
    ("daemon.hello", {"client": "recorder", "protocol": 99}),
    ("daemon.status", {}),
    ("agent.list", {}),
    ("agent.get", {"agent": "librarian"}),
    ("agent.get", {"agent": "nobody"}),
    ("session.create", {"agent": "librarian", "title": "recorded", "created_by": "recorder", "key": "k"}),
    ("session.create", {"agent": "librarian", "title": "recorded", "created_by": "recorder", "key": "k"}),
    ("session.create", {"agent": "librarian", "key": "k"}),
    ("session.send", {"session": 1, "content": "Hello!", "key": "first", "sender": "ann"}),
    ("session.send", {"session": 1, "content": "Hello!", "key": "first", "sender": "ann"}),
    ("session.send", {"session": 1, "content": "Other!", "key": "first"}),
    ("session.send", {"session": 1, "content": [{"type": "text", "text": "Hello in parts!"}]}),
    ("session.send", {"session": 1, "content": "work"}),
    ("session.stream", {"session": 1, "content": "What is on the list?"}),
    ("session.send", {"session": 1, "content": "A story", "timeout_s": 0.5}),
    ("session.get", {"session": 1}),
    ("session.get", {"session": 99}),
    ("session.list", {"limit": 1}),
    ("session.history", {"session": 1, "limit": 3}),
    ("session.attach", {"session": 1, "follow": False}),
    ("session.attach", {"session": 1, "since": 9999}),
    ("session.wait", {"session": 1, "states": ["idle", "error"]}),
    ("session.search", {"query": "fish"}),
    ("session.checkpoint", {"session": 1, "name": "here"}),
    ("session.checkpoints", {"session": 1}),
    ("session.fork", {"session": 1, "at": 4}),
    ("session.rewind", {"session": 1, "to": 4}),
    ("session.interrupt", {"session": 1}),
    ("session.resume", {"session": 1}),
    ("session.export", {"session": 2}),
    ("tool.output", {"session": 1, "ref": "none"}),
    ("agent.run", {"agent": "librarian", "content": "Hello!"}),
    ("session.wait", {"session": 3, "states": ["closed"]}),  # it closes after the reply
    ("event.subscribe", {"since": 0, "follow": False, "types": ["done", "session_created"]}),
    ("schedule.list", {}),
    ("schedule.run", {"schedule": "heartbeat:nobody"}),
    ("config.check", {}),
    ("config.get", {}),
    ("daemon.reload", {}),
    ("daemon.gc", {"dry_run": True}),
    ("session.close", {"session": 1, "force": True}),
    ("session.close", {"session": 1}),
    ("session.send", {"session": 1, "content": "too late"}),
    ("session.nonsense", {}),
    ("session.send", {"session": "one", "content": "hi"}),
    ("session.send", {"session": 1, "contnt": "hi"}),
]
LIVE = re.compile(rb'"live":true')
"""Matches live events, which are not recorded: the number of deltas depends on timing."""
MASKS = [
    (re.compile(rb'"(ts|created_at|updated_at|uptime_s|slot|next_slot|started_at|ended_at)":[-+.\de]+'), rb'"\1":0.0'),
    (
        re.compile(
            rb'"(pid|fds|tasks|threads|children|rss_bytes|duration_ms|db_bytes|wal_bytes|free_bytes|used_bytes)":\d+'
        ),
        rb'"\1":0',
    ),
    (re.compile(rb'("result":{"events":\d+,"bytes":)\d+'), rb"\g<1>0"),
    (re.compile(rb'\\"(ts|created_at|updated_at|exported_at)\\":[-+.\de]+'), rb'\\"\1\\":0.0'),
    (re.compile(rb'\\"duration_ms\\":\d+'), rb'\\"duration_ms\\":0'),
]


def record(folder: Path) -> list[str]:
    """Returns one line of JSON for each request: the request and the replies to it, in order."""
    home = Home(folder / "home")
    shutil.copytree(TOUR, home.path, dirs_exist_ok=True)
    with home.walrusd(), _connect(home) as connection:
        lines = []
        for number, (method, params) in enumerate(REQUESTS, 1):
            request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            payload = json.dumps(request, separators=(",", ":")).encode()
            if method == "daemon.hello":  # on a connection of its own, because it names the client in later events
                with _connect(home) as named:
                    replies = _exchange(named, payload, home)
                    named.shutdown(socket.SHUT_WR)
                    assert named.recv(1) == b"", "the daemon counts a connection until it closes it"
            else:
                replies = _exchange(connection, payload, home)
            lines.append(json.dumps({"request": payload.decode(), "replies": replies}, ensure_ascii=False))
        return lines


def _connect(home: Home) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(TIMEOUT_S)
    connection.connect(str(home.socket))
    return connection


def _exchange(connection: socket.socket, payload: bytes, home: Home) -> list[str]:
    """Sends a request and returns all replies to it but live events, masked."""
    connection.sendall(encode_frame(payload))
    replies = []
    for reply in _payloads(connection):
        if not LIVE.search(reply):
            replies.append(_masked(reply, str(home.path)).decode())
        if reply.startswith(b'{"jsonrpc":"2.0","id":'):
            break
    return replies


def _payloads(connection: socket.socket) -> Iterator[bytes]:
    with connection.makefile("rb") as stream:
        while head := stream.read(4):
            yield stream.read(int.from_bytes(head))


def _masked(payload: bytes, home: str) -> bytes:
    payload = payload.replace(home.encode(), b"/home/ann/.openwalrus")
    for pattern, replacement in MASKS:
        payload = pattern.sub(replacement, payload)
    return payload


if __name__ == "__main__":
    path = FOLDER / f"{walrusd.__version__}.jsonl"
    with tempfile.TemporaryDirectory() as temporary:
        path.write_text("".join(f"{line}\n" for line in record(Path(temporary))))
    print(f"{path} written")  # noqa: T201 - a script
