"""Tests of socket activation, with a socket at descriptor 3 and variables as systemd sets them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.service_manager import FakeServiceManager
from walrusd.host.socket_activation import take_activation_socket

ROOT = Path(__file__).parents[2]

INHERIT_SCRIPT = """
import os, subprocess, sys
from walrusd.host.socket_activation import take_activation_socket
from walrusd.host.startup_error import StartupFailed
try:
    inherited = take_activation_socket(os.environ)
except StartupFailed as refused:
    sys.exit(f"{refused} -- {refused.hint}")
inheritable = os.get_inheritable(3) if inherited else ""
print(inherited and inherited.getsockname(), inheritable, *(key for key in os.environ if "LISTEN" in key))
"""
"""Prints the socket's path, whether children inherit it, and the variables that are left."""

PASS_DESCRIPTOR_SCRIPT = """
import os, socket, sys
sys.stdin.close()
os.close(0)
{make}
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
{change}
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def run_inheriting_process(*wrapper: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrapper, sys.executable, "-c", INHERIT_SCRIPT] if wrapper else [sys.executable, "-c", INHERIT_SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        close_fds=False,
        check=False,
    )


def run_with_descriptor_3(make: str, change: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the script after `make` has opened descriptor 3 and `change` has altered the environment."""
    return subprocess.run(
        [sys.executable, "-c", PASS_DESCRIPTOR_SCRIPT.format(make=make, change=change), INHERIT_SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeServiceManager]:
    with FakeServiceManager(tmp_path) as manager:
        yield manager


def test_the_socket_is_taken_not_inheritable_and_removed_from_the_environment(
    manager: FakeServiceManager, tmp_path: Path
) -> None:
    with manager.listen(tmp_path / "walrus.sock") as listener:
        taken = run_inheriting_process(*manager.socket_activation_command(listener))
    assert (taken.stdout, taken.stderr) == (f"{tmp_path}/walrus.sock False\n", "")


def test_without_a_passed_socket_none_is_returned() -> None:
    assert run_inheriting_process().stdout == "None \n"
    assert take_activation_socket({}) is None


def test_a_socket_for_another_process_is_not_taken() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid()), "LISTEN_FDNAMES": "x", "HOME": "/h"}
    assert take_activation_socket(environ) is None
    assert environ == {"HOME": "/h"}


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        ("", "os.environ['LISTEN_FDS'] = '2'", "passed 2 sockets"),
        ("", "os.environ['LISTEN_FDS'] = 'many'", "passed many sockets"),
        ("", "", "passed a descriptor that is not open"),
        ("os.dup2(os.open('/dev/null', 0), 3)", "", "passed a descriptor that is not a socket"),
        ("s = socket.socket(); s.listen(); os.dup2(s.fileno(), 3)", "", "is not a Unix stream socket"),
        (
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); os.dup2(s.fileno(), 3)",
            "",
            "not a Unix stream socket",
        ),
        ("s = socket.socket(socket.AF_UNIX); os.dup2(s.fileno(), 3)", "", "passed a socket that does not listen"),
    ],
)
def test_anything_else_is_refused_with_a_hint(make: str, change: str, message: str) -> None:
    refused = run_with_descriptor_3(make, change)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert "exactly one ListenStream=" in refused.stderr
    assert "Traceback" not in refused.stderr
