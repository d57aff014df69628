"""A socket that is handed over as systemd does it: to a process, at descriptor 3, named in its environment."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.manager import ServiceManager
from walrusd.host.activation import inherited

ROOT = Path(__file__).parents[2]

HEIR = """
import os, subprocess, sys
from walrusd.host.activation import BadInheritance, inherited
try:
    given = inherited(os.environ)
except BadInheritance as refused:
    sys.exit(f"{refused} -- {refused.hint}")
print(given and given.getsockname(), os.get_inheritable(3) if given else "", *(k for k in os.environ if "LISTEN" in k))
"""
"""Says what it has been given."""

GIVE = """
import os, socket, sys
sys.stdin.close()
os.close(0)
{make}
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
{change}
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def heir(*by: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*by, sys.executable, "-c", HEIR] if by else [sys.executable, "-c", HEIR],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        close_fds=False,
        check=False,
    )


def given(make: str, change: str = "") -> subprocess.CompletedProcess[str]:
    """The heir's words where `make` has put something at descriptor 3."""
    return subprocess.run(
        [sys.executable, "-c", GIVE.format(make=make, change=change), HEIR],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as manager:
        yield manager


def test_the_socket_is_taken_kept_from_children_and_no_longer_spoken_of(
    manager: ServiceManager, tmp_path: Path
) -> None:
    with manager.keeps(tmp_path / "walrus.sock") as listener:
        taken = heir(*manager.hands_over(listener))
    assert (taken.stdout, taken.stderr) == (f"{tmp_path}/walrus.sock False\n", "")


def test_without_one_there_is_none() -> None:
    assert heir().stdout == "None \n"
    assert inherited({}) is None


def test_what_was_meant_for_another_process_is_not_taken() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid()), "LISTEN_FDNAMES": "x", "HOME": "/h"}
    assert inherited(environ) is None
    assert environ == {"HOME": "/h"}


@pytest.mark.parametrize(
    ("make", "change", "told"),
    [
        ("", "os.environ['LISTEN_FDS'] = '2'", "handed over 2 sockets"),
        ("", "os.environ['LISTEN_FDS'] = 'many'", "handed over many sockets"),
        ("", "", "handed over a descriptor that is not open"),
        ("os.dup2(os.open('/dev/null', 0), 3)", "", "handed over what is no socket"),
        ("s = socket.socket(); s.listen(); os.dup2(s.fileno(), 3)", "", "is no Unix stream socket"),
        ("s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); os.dup2(s.fileno(), 3)", "", "no Unix stream socket"),
        ("s = socket.socket(socket.AF_UNIX); os.dup2(s.fileno(), 3)", "", "handed over a socket that does not listen"),
    ],
)
def test_anything_else_is_refused_with_what_to_do(make: str, change: str, told: str) -> None:
    refused = given(make, change)
    assert refused.returncode == 1
    assert told in refused.stderr
    assert "exactly one ListenStream=" in refused.stderr
    assert "Traceback" not in refused.stderr
