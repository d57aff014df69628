"""Tests of access by peers: descendants of walrusd are restricted, and other users' processes refused."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from msgspec import structs

from tests.fakes.home import ECHO, ROOT, Home
from tests.rpc.raw_client import open_raw_client
from walrus_protocol.methods import METHODS
from walrus_protocol.param_types import Params

FORK_AND_BECOME = """
import os, sys
if os.fork():
    os.execv(sys.argv[2], sys.argv[2:])
exec(sys.argv[1])
"""
"""A program that forks and then becomes walrusd.

Its child is a descendant of walrusd, like a tool's process.
"""

CALL_METHODS = """
import json, socket, struct, sys, time
methods, path, answers = {methods!r}, {path!r}, {answers!r}
client = socket.socket(socket.AF_UNIX)
for attempt in range(1000):
    try:
        client.connect(path)
        break
    except OSError:
        time.sleep(0.01)
else:
    sys.exit("the daemon did not start")
file = client.makefile("rwb")
def call(method):
    payload = json.dumps(dict(jsonrpc="2.0", id=1, method=method)).encode()
    file.write(struct.pack(">I", len(payload)) + payload)
    file.flush()
    return json.loads(file.read(struct.unpack(">I", file.read(4))[0]))
replies = {{method: call(method) for method in methods}}
with open(answers, "w") as out:
    json.dump(replies, out)
call("daemon.farewell")
"""

CONNECT_AS = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
print(client.recv(1000))
"""


async def test_a_descendant_of_walrusd_may_only_ping_and_say_hello(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    answers = tmp_path / "answers.json"
    program = CALL_METHODS.format(
        methods=[method for method, row in METHODS.items() if not needs_params(row.params)],
        path=str(home.socket),
        answers=str(answers),
    )
    with home.walrusd(wrapper=[sys.executable, "-c", FORK_AND_BECOME, program]) as daemon:
        await daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("request_rejected")))
        replies = json.loads(answers.read_text())
        async with open_raw_client(daemon.socket) as raw_client:
            assert "result" in await raw_client.call("daemon.status"), "other clients are not restricted"
    assert replies.keys() >= {"daemon.ping", "daemon.hello", "daemon.shutdown", "agent.list", "config.get"}
    for method, reply in replies.items():
        if method in {"daemon.ping", "daemon.hello"}:
            assert "result" in reply
        else:
            assert (reply["error"]["code"], reply["error"]["data"]["kind"]) == (-32003, "from_tool"), method
            assert reply["error"]["data"]["hint"]


def needs_params(params: type[Params]) -> bool:
    return any(field.required for field in structs.fields(params))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_connection_of_another_users_process_is_closed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        home = Home(Path(folder) / "home", ECHO)
        socket = Path(folder) / "walrus.sock"
        with home.walrusd("--socket", str(socket)) as daemon:
            os.chmod(socket, 0o666)  # as if the folder did not protect it
            other_user = subprocess.run(
                [sys.executable, "-c", CONNECT_AS, str(socket)], cwd=ROOT, capture_output=True, text=True, check=True
            )
            assert other_user.stdout == "b''\n"
            daemon.wait_for(lambda daemon: bool(daemon.lines_of("connection_refused")))
            [refused] = daemon.lines_of("connection_refused")
            assert (refused["uid"], refused["pid"] > 0) == (65534, True)


def test_only_its_owner_can_use_the_socket(tmp_path: Path) -> None:
    with Home(tmp_path / "home").walrusd() as daemon:
        status = daemon.socket.stat()
        assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid())


async def test_a_daemon_serves_a_socket_outside_its_home(tmp_path: Path) -> None:
    elsewhere = tmp_path / "run" / "w.sock"
    with Home(tmp_path / "home").walrusd("--socket", str(elsewhere)) as daemon:
        assert daemon.socket == elsewhere
        async with open_raw_client(elsewhere) as raw_client:
            assert (await raw_client.call("daemon.ping"))["result"] == {}
        assert elsewhere.parent.stat().st_mode & 0o777 == 0o700
