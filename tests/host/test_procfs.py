"""Tests of procfs with real processes."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from walrusd.host.procfs import (
    all_processes,
    child_pids,
    descendants,
    listed_child_pids,
    read_environment,
    read_proc,
    scanned_child_pids,
)

UNUSED_PID = 2**22 + 1
"""A pid above the highest that Linux can assign."""


@pytest.fixture
def shell_with_children() -> Iterator[tuple[int, list[int]]]:
    """A shell and its two children."""
    script = "sleep 1000 & echo $!; sleep 1000 & echo $!; read line; kill %1 %2; wait"
    with subprocess.Popen(
        ["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as shell:
        assert shell.stdout
        yield shell.pid, [int(shell.stdout.readline()), int(shell.stdout.readline())]


def test_the_current_process_is_read_correctly() -> None:
    info = read_proc(os.getpid())
    assert info
    assert (info.ppid, info.pgid, info.sid) == (os.getppid(), os.getpgid(0), os.getsid(0))
    assert (info.has_exited, info.start > 0) == (False, True)
    assert [(one.name, one.start) for one in all_processes() if one.pid == os.getpid()] == [(info.name, info.start)]


def test_a_process_name_with_spaces_and_parentheses_is_parsed() -> None:
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b') Z 1 (', 0, 0, 0); print('ok', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as named:
        assert named.stdout
        named.stdout.readline()
        info = read_proc(named.pid)
        assert info
        assert (info.name, info.ppid, info.has_exited) == (") Z 1 (", os.getpid(), False)
        named.communicate(b"\n")


def test_an_exited_process_is_read_until_it_is_reaped() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        info = read_proc(child.pid)
        assert info
        assert info.has_exited
        assert child.pid in child_pids(os.getpid())
    assert read_proc(child.pid) is None


def test_listed_and_scanned_children_are_the_same(shell_with_children: tuple[int, list[int]]) -> None:
    shell, both = shell_with_children
    assert (
        sorted(listed_child_pids(shell))
        == sorted(scanned_child_pids(shell))
        == sorted(child_pids(shell))
        == sorted(both)
    )


def test_descendants_are_children_and_grandchildren(shell_with_children: tuple[int, list[int]]) -> None:
    shell, both = shell_with_children
    own = [info.pid for info in descendants(os.getpid()) if info.sid == shell]  # this process may have other children
    assert sorted(own) == sorted([shell, *both])


def test_an_unused_pid_has_no_children_and_no_environment() -> None:
    assert (read_proc(UNUSED_PID), child_pids(UNUSED_PID), descendants(UNUSED_PID), read_environment(UNUSED_PID)) == (
        None,
        [],
        [],
        frozenset(),
    )


def test_an_environment_is_what_a_process_was_started_with() -> None:
    environ = {"PATH": os.environ["PATH"], "MARK": "a=b c"}
    with subprocess.Popen(["cat"], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(b"\n")
        child.stdout.read(1)  # the environment can be read only a moment after the start
        assert b"MARK=a=b c" in read_environment(child.pid)
