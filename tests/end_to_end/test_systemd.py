"""Tests of walrusd as a systemd service: notifications and socket activation.

The test is the service manager.
"""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.home import ECHO, MAX_WAIT_S, ROOT, Home
from tests.fakes.service_manager import FakeServiceManager
from walrus_protocol.client import Client

TOML_WITH_HANGING_SCRIPT = """
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
def manager(tmp_path: Path) -> Iterator[FakeServiceManager]:
    with FakeServiceManager(tmp_path) as manager:
        yield manager


def test_ready_watchdog_and_stopping_are_notified(home: Home, manager: FakeServiceManager) -> None:
    with home.walrusd(environ=manager.environ(watchdog_s=0.1)) as daemon:
        manager.wait_for("EXTEND_TIMEOUT_USEC=")
        manager.wait_for("READY=1")
        with Client(str(home.socket)) as client:
            client.call("daemon.ping")
        manager.wait_for("WATCHDOG=1", times=5)
        daemon.signal(signal.SIGTERM)
        notified = manager.wait_for("STOPPING=1")
        manager.wait_for(f"EXTEND_TIMEOUT_USEC={60_100_000}")
        assert "READY=1" not in notified
        assert daemon.wait_exit() == 0
    assert "STATUS=listening on " + str(home.socket) in manager.notifications


def test_ready_is_not_sent_before_clients_are_answered(home: Home, manager: FakeServiceManager) -> None:
    with home.walrusd(environ=manager.environ()):
        manager.wait_for("READY=1")
        with Client(str(home.socket)) as client:
            assert client.call("daemon.status")["sessions"]["open"] == 0


def test_a_start_that_fails_never_notifies_ready(home: Home, manager: FakeServiceManager) -> None:
    home.write("walrus.toml", "[daemn]")
    status, _ = home.run_to_exit(environ=manager.environ())
    assert status == 78
    assert manager.read_pending() == []


def test_an_inherited_socket_is_served_and_not_removed(home: Home, manager: FakeServiceManager) -> None:
    with manager.listen(home.socket) as listener:
        before = home.socket.lstat()
        with home.walrusd(wrapper=manager.socket_activation_command(listener), environ=manager.environ()) as daemon:
            with Client(str(home.socket)) as client:
                assert client.call("daemon.hello", {"client": "test", "protocol": 1})["pid"] == daemon.pid
            assert daemon.terminate() == 0
        assert os.path.samestat(before, home.socket.lstat())
        assert not [line for line in daemon.log_lines if line.get("level") == "warning"]
        home.check_unlocked()


def test_a_second_sigterm_does_not_remove_an_inherited_socket(home: Home, manager: FakeServiceManager) -> None:
    home.write("walrus.toml", TOML_WITH_HANGING_SCRIPT)
    home.write("script.toml", '[[reply]]\ntext = "I am look"\nhang = true\n')
    with manager.listen(home.socket) as listener:
        with (
            home.walrusd(wrapper=manager.socket_activation_command(listener), environ=manager.environ()) as daemon,
            subprocess.Popen(home.command_line("run", "walrus", "hi"), env=home.environ(), cwd=ROOT) as client,
        ):
            while home.walrusctl("session", "wait", "1", "--state", "processing").returncode:
                assert client.poll() is None
            daemon.signal(signal.SIGTERM)
            daemon.wait_for(lambda daemon: bool(daemon.lines_of("stopping")))
            daemon.signal(signal.SIGTERM)
            assert daemon.wait_exit() == 130
            client.wait(MAX_WAIT_S)
        assert home.socket.is_socket()


def test_a_client_that_connects_while_walrusd_is_down_is_answered_after_the_next_start(
    home: Home, manager: FakeServiceManager
) -> None:
    with manager.listen(home.socket) as listener:
        with home.walrusd(wrapper=manager.socket_activation_command(listener), environ=manager.environ()) as daemon:
            with Client(str(home.socket)) as client:
                assert client.call("session.create", {"agent": "walrus"}) == {"session": 1}
            daemon.kill()
        answered: list[object] = []

        def ask() -> None:
            with Client(str(home.socket), MAX_WAIT_S) as client:
                connected.set()
                answered.append(client.call("session.send", {"session": 1, "content": "hi"})["text"])

        connected, thread = threading.Event(), threading.Thread(target=ask)
        thread.start()
        assert connected.wait(MAX_WAIT_S)  # the client is connected, and no process has accepted
        with home.walrusd(wrapper=manager.socket_activation_command(listener), environ=manager.environ()) as daemon:
            thread.join(MAX_WAIT_S)
            assert answered == ["hi"]
            assert daemon.terminate() == 0


def test_an_inherited_socket_at_another_path_is_logged_as_a_warning(home: Home, manager: FakeServiceManager) -> None:
    elsewhere = home.path / "other.sock"
    with (
        manager.listen(elsewhere) as listener,
        home.walrusd(wrapper=manager.socket_activation_command(listener), environ=manager.environ()) as daemon,
    ):
        [warning] = daemon.lines_of("inherited_socket_unreachable")
        assert (warning["inherited"], warning["expected"]) == (str(elsewhere), str(home.socket))
        assert "walrusctl service install" in warning["hint"]


def test_an_inherited_socket_of_another_type_ends_walrusd_with_78(home: Home, manager: FakeServiceManager) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wrong:
        wrong.bind(str(home.path / "wrong.sock"))
        os.set_inheritable(wrong.fileno(), True)
        status, stderr = home.run_to_exit(wrapper=manager.socket_activation_command(wrong), environ=manager.environ())
    assert status == 78
    assert stderr.startswith("walrusd: the service manager passed a socket that is not a Unix stream socket\n")


def test_a_watchdog_abort_prints_the_stacks(home: Home, manager: FakeServiceManager) -> None:
    with home.walrusd(environ=manager.environ(watchdog_s=60)) as daemon:
        manager.wait_for("WATCHDOG=1")
        daemon.signal(signal.SIGABRT)
        assert daemon.wait_exit() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in daemon.stderr
        assert daemon.stderr.count("hread 0x") >= 2, "the stacks of the event loop and of the store"
        assert "walrusd/store/writer_thread.py" in daemon.stderr
    with home.walrusd():
        pass
