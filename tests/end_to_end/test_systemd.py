"""walrusd as a service: the test is its service manager, with the notify socket and the listening socket."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.home import ECHO, PATIENCE_S, ROOT, Home
from tests.fakes.manager import ServiceManager
from walrus_protocol.client import Client

HANGING = """
[daemon]
shutdown_grace_s = 600
[providers.script]
kind = "scripted"
path = "script.toml"
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", ECHO)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as manager:
        yield manager


def test_it_says_when_it_is_ready_that_it_lives_and_when_it_stops(home: Home, manager: ServiceManager) -> None:
    with home.walrusd(environ=manager.environ(watchdog_s=0.1)) as daemon:
        manager.wait_for("EXTEND_TIMEOUT_USEC=")
        manager.wait_for("READY=1")
        with Client(str(home.socket)) as client:
            client.call("daemon.ping")
        manager.wait_for("WATCHDOG=1", times=5)
        daemon.signal(signal.SIGTERM)
        said = manager.wait_for("STOPPING=1")
        manager.wait_for(f"EXTEND_TIMEOUT_USEC={60_100_000}")
        assert "READY=1" not in said
        assert daemon.ended() == 0
    assert "STATUS=listening on " + str(home.socket) in manager.said


def test_nobody_is_ready_before_clients_are_answered(home: Home, manager: ServiceManager) -> None:
    with home.walrusd(environ=manager.environ()):
        manager.wait_for("READY=1")
        with Client(str(home.socket)) as client:
            assert client.call("daemon.status")["sessions"]["open"] == 0


def test_a_start_that_is_refused_never_says_ready(home: Home, manager: ServiceManager) -> None:
    home.write("walrus.toml", "[daemn]")
    status, _ = home.refuses_to_start(environ=manager.environ())
    assert status == 78
    assert manager.waiting() == []


def test_the_inherited_socket_is_served_and_left_where_it_is(home: Home, manager: ServiceManager) -> None:
    with manager.keeps(home.socket) as listener:
        before = home.socket.lstat()
        with home.walrusd(by=manager.hands_over(listener), environ=manager.environ()) as daemon:
            with Client(str(home.socket)) as client:
                assert client.call("daemon.hello", {"client": "test", "protocol": 1})["pid"] == daemon.pid
            assert daemon.term() == 0
        assert os.path.samestat(before, home.socket.lstat())
        assert not [line for line in daemon.log if line.get("level") == "warning"]
        home.check_unlocked()


def test_a_second_term_leaves_the_inherited_socket_too(home: Home, manager: ServiceManager) -> None:
    home.write("walrus.toml", HANGING)
    home.write("script.toml", '[[reply]]\ntext = "I am look"\nhang = true\n')
    with manager.keeps(home.socket) as listener:
        with (
            home.walrusd(by=manager.hands_over(listener), environ=manager.environ()) as daemon,
            subprocess.Popen(home.command_line("run", "walrus", "hi"), env=home.environ(), cwd=ROOT) as asking,
        ):
            while home.walrusctl("session", "wait", "1", "--state", "processing").returncode:
                assert asking.poll() is None
            daemon.signal(signal.SIGTERM)
            daemon.wait_for(lambda daemon: bool(daemon.lines("stopping")))
            daemon.signal(signal.SIGTERM)
            assert daemon.ended() == 130
            asking.wait(PATIENCE_S)
        assert home.socket.is_socket()


def test_who_connects_while_it_is_down_is_answered_by_the_next_one(home: Home, manager: ServiceManager) -> None:
    with manager.keeps(home.socket) as listener:
        with home.walrusd(by=manager.hands_over(listener), environ=manager.environ()) as daemon:
            with Client(str(home.socket)) as client:
                assert client.call("session.create", {"agent": "walrus"}) == {"session": 1}
            daemon.kill()
        answered: list[object] = []

        def ask() -> None:
            with Client(str(home.socket), PATIENCE_S) as client:
                asking.set()
                answered.append(client.call("session.send", {"session": 1, "content": "hi"})["text"])

        asking, asks = threading.Event(), threading.Thread(target=ask)
        asks.start()
        assert asking.wait(PATIENCE_S)  # it is connected, and nobody has accepted
        with home.walrusd(by=manager.hands_over(listener), environ=manager.environ()) as daemon:
            asks.join(PATIENCE_S)
            assert answered == ["hi"]
            assert daemon.term() == 0


def test_an_inherited_socket_that_clients_do_not_look_for_is_told(home: Home, manager: ServiceManager) -> None:
    elsewhere = home.path / "other.sock"
    with (
        manager.keeps(elsewhere) as listener,
        home.walrusd(by=manager.hands_over(listener), environ=manager.environ()) as daemon,
    ):
        [warning] = daemon.lines("clients will not find the socket that systemd handed over")
        assert (warning["handed_over"], warning["looked_for"]) == (str(elsewhere), str(home.socket))
        assert "walrusctl service install" in warning["hint"]


def test_an_inherited_socket_that_cannot_be_served_is_refused_with_78(home: Home, manager: ServiceManager) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wrong:
        wrong.bind(str(home.path / "wrong.sock"))
        os.set_inheritable(wrong.fileno(), True)
        status, said = home.refuses_to_start(by=manager.hands_over(wrong), environ=manager.environ())
    assert status == 78
    assert said.startswith("walrusd: the service manager handed over a socket that is no Unix stream socket\n")


def test_where_it_stood_is_told_when_the_watchdog_ends_it(home: Home, manager: ServiceManager) -> None:
    with home.walrusd(environ=manager.environ(watchdog_s=60)) as daemon:
        manager.wait_for("WATCHDOG=1")
        daemon.signal(signal.SIGABRT)
        assert daemon.ended() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in daemon.stderr
        assert daemon.stderr.count("hread 0x") >= 2, "the loop's and the store's"
        assert "walrusd/store/writer.py" in daemon.stderr
    with home.walrusd():
        pass
