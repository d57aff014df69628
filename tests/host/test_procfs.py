"""What /proc says of real processes."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from walrusd.host.procfs import (
    children,
    descendants,
    environment_of,
    everyone,
    listed_children,
    look,
    scanned_children,
)

NOBODY = 2**22 + 1
"""No process has so high a number."""


@pytest.fixture
def family() -> Iterator[tuple[int, list[int]]]:
    """A shell and its two children."""
    script = "sleep 1000 & echo $!; sleep 1000 & echo $!; read line; kill %1 %2; wait"
    with subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout
        yield shell.pid, [int(shell.stdout.readline()), int(shell.stdout.readline())]


def test_we_are_seen_as_we_are() -> None:
    seen = look(os.getpid())
    assert seen
    assert (seen.parent, seen.group, seen.session) == (os.getppid(), os.getpgid(0), os.getsid(0))
    assert (seen.ended, seen.start > 0) == (False, True)
    assert [(one.name, one.start) for one in everyone() if one.pid == os.getpid()] == [(seen.name, seen.start)]


def test_a_name_with_spaces_and_parentheses_leads_nobody_astray() -> None:
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b') Z 1 (', 0, 0, 0); print('ok', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as named:
        assert named.stdout
        named.stdout.readline()
        seen = look(named.pid)
        assert seen
        assert (seen.name, seen.parent, seen.ended) == (") Z 1 (", os.getpid(), False)
        named.communicate(b"\n")


def test_one_that_has_ended_is_seen_until_it_is_reaped() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        seen = look(child.pid)
        assert seen
        assert seen.ended
        assert child.pid in children(os.getpid())
    assert look(child.pid) is None


def test_children_are_the_same_whether_the_kernel_lists_them_or_not(family: tuple[int, list[int]]) -> None:
    shell, both = family
    assert sorted(listed_children(shell)) == sorted(scanned_children(shell)) == sorted(children(shell)) == sorted(both)


def test_descendants_are_children_and_theirs(family: tuple[int, list[int]]) -> None:
    shell, both = family
    assert sorted(seen.pid for seen in descendants(os.getpid())) == sorted([shell, *both])


def test_nobody_has_no_family_and_no_environment() -> None:
    assert (look(NOBODY), children(NOBODY), descendants(NOBODY), environment_of(NOBODY)) == (None, [], [], frozenset())


def test_an_environment_is_what_a_process_was_started_with() -> None:
    environ = {"PATH": os.environ["PATH"], "MARK": "a=b c"}
    with subprocess.Popen(["cat"], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(b"\n")
        child.stdout.read(1)  # it is there to be seen only a moment after the start
        assert b"MARK=a=b c" in environment_of(child.pid)
