"""Tests without a walrusd at the socket: it is found by the home's lock, or the failure is reported."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeCall, FakeDaemon
from tests.fakes.walrusctl_runner import SCRIPT, WalrusctlRunner

TOML_WITH_OTHER_SOCKET = '[daemon]\nsocket = "other.sock"\n'


@contextmanager
def held_lock(home: Path, content: str) -> Iterator[None]:
    """Holds the lock of the home like a walrusd."""
    with open(home / "walrusd.lock", "w+") as lock:
        lock.write(content)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_daemon_whose_socket_walrus_toml_no_longer_names_is_found_by_its_lock(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    (terminal.home / "walrus.toml").write_text(TOML_WITH_OTHER_SOCKET)
    with held_lock(terminal.home, f"42\n{daemon.path}\n"):
        result = terminal.run("session", "create", "walrus")
    assert (result.exit_code, result.stdout) == (0, "1\n")
    assert result.stderr == (
        f"walrusd (pid 42) listens on {daemon.path}; it moves to {terminal.home}/other.sock when it is restarted\n"
    )


def test_a_daemon_found_by_its_lock_gets_all_requests_and_is_mentioned_once(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    (terminal.home / "walrus.toml").write_text(TOML_WITH_OTHER_SOCKET)
    with held_lock(terminal.home, f"42\n{daemon.path}\n"):
        child = terminal.start_process("stream", 1, "hi", "--timeout", "30")
        _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr.decode().count("listens on")) == (0, 1)


@pytest.mark.parametrize("content", ["", "42\n", "42\n{home}/other.sock\n"])
def test_a_lock_without_another_socket_changes_nothing(terminal: WalrusctlRunner, content: str) -> None:
    (terminal.home / "walrus.toml").write_text(TOML_WITH_OTHER_SOCKET)
    with held_lock(terminal.home, content.format(home=terminal.home)):
        result = terminal.run("ping")
    assert (result.exit_code, result.stdout) == (4, "")
    assert f"there is no socket at {terminal.home}/other.sock" in result.stderr


def test_the_lock_of_a_daemon_that_has_exited_is_ignored(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    (terminal.home / "walrus.toml").write_text(TOML_WITH_OTHER_SOCKET)
    (terminal.home / "walrusd.lock").write_text(f"42\n{daemon.path}\n")
    assert terminal.run("ping").exit_code == 4


@pytest.mark.parametrize("by", ["option", "environment"])
def test_an_explicit_socket_is_the_only_one_tried(daemon: FakeDaemon, terminal: WalrusctlRunner, by: str) -> None:
    socket = f"{terminal.home}/named.sock"
    words = ("--socket", socket) if by == "option" else ()
    terminal.environ["WALRUS_SOCKET"] = socket if by == "environment" else ""
    with held_lock(terminal.home, f"42\n{daemon.path}\n"):
        assert terminal.run(*words, "ping").exit_code == 4
    assert daemon.requests == []


def test_with_json_a_missing_daemon_is_also_printed_as_an_object(terminal: WalrusctlRunner) -> None:
    result = terminal.run("ping", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout) == {
        "error": {
            "code": None,
            "kind": "unreachable",
            "message": f"walrusd is not running: there is no socket at {terminal.home}/walrus.sock",
            "hint": "start it with `walrusd`, the first time with `walrusd --init`",
        }
    }
    assert result.stderr.startswith("walrusctl: walrusd is not running")


def test_with_json_a_timeout_is_also_printed_as_an_object(tmp_path: Path, terminal: WalrusctlRunner) -> None:
    with FakeDaemon(tmp_path / "walrus.sock", {**SCRIPT, "daemon.status": FakeCall.wait_for_cancel}):
        result = terminal.run("status", "--json", "--timeout", "0.05")
    assert result.exit_code == 7
    assert json.loads(result.stdout) == {
        "error": {
            "code": None,
            "kind": "timeout",
            "message": "no answer to daemon.status within 0.05 s",
            "hint": "walrusd may be stopped or overloaded: see its log, or wait longer with --timeout",
        }
    }
