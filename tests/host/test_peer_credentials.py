"""Tests of peer_credentials with real processes and sockets."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio

from walrusd.host.peer_credentials import Peer, is_descendant, read_peer_credentials


@contextlib.contextmanager
def child(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a process, and waits for its exit when the block is left."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process


def test_children_and_grandchildren_are_descendants_and_others_are_not() -> None:
    # The shell waits for sleep, so sleep is our grandchild.
    with child("sh", "-c", "sleep 1000 & echo $!; wait") as shell:
        assert shell.stdout
        grandchild = int(shell.stdout.readline())
        assert is_descendant(shell.pid, os.getpid())
        assert is_descendant(grandchild, os.getpid())
        assert is_descendant(grandchild, shell.pid)
        assert not is_descendant(shell.pid, grandchild)
        assert not is_descendant(os.getppid(), os.getpid())
        assert not is_descendant(1, os.getpid())
        os.kill(grandchild, 15)


def test_no_process_descends_from_itself() -> None:
    assert not is_descendant(os.getpid(), os.getpid())


def test_a_process_name_with_spaces_and_parentheses_is_parsed() -> None:
    # PR_SET_NAME: a process may choose any name; this one looks as if init were its parent.
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b') S 1 (', 0, 0, 0); print('ok', flush=True); input()"
    with child(sys.executable, "-c", rename) as named:
        assert named.stdout
        named.stdout.readline()
        assert is_descendant(named.pid, os.getpid())
        named.communicate(b"\n")


@pytest.mark.parametrize("hidden", [0, -1])
def test_a_hidden_process_counts_as_a_descendant(hidden: int) -> None:
    assert is_descendant(hidden, os.getpid())


def test_an_exited_process_counts_as_a_descendant() -> None:
    with child("true") as process:
        process.wait()
    assert is_descendant(process.pid, os.getpid())


def test_credentials_of_the_peer_of_a_socket_are_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert read_peer_credentials(ours) == Peer(os.getpid(), os.getuid(), os.getgid())


def test_credentials_of_the_peer_of_a_trio_socket_are_read() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        assert read_peer_credentials(ours) == Peer(os.getpid(), os.getuid(), os.getgid())


def test_an_undumpable_process_can_still_read_its_own_proc() -> None:
    program = """
import ctypes, os
from walrusd.host.libc import set_undumpable
from walrusd.host.procfs import read_process_stats
libc = ctypes.CDLL(None)
before = libc.prctl(3, 0, 0, 0, 0)
set_undumpable()
now = read_process_stats()
print(before, libc.prctl(3, 0, 0, 0, 0), now.rss_bytes > 0, now.fds, now.threads, now.children)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "1 0 True 3 1 0\n"
