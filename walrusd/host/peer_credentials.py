"""Identifies the peer of a Unix socket, and sets kernel options of this process."""

import ctypes
import socket
from struct import Struct as Layout

import trio
from msgspec import Struct

from walrusd.host.procfs import read_proc

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_ucred = Layout("iII")


class Peer(Struct, frozen=True):
    """The process at the other end of a Unix socket at the time of the connection."""

    pid: int
    """0 if the process is in another PID namespace, where this one cannot see it."""
    uid: int
    gid: int


def read_peer_credentials(sock: socket.socket | trio.socket.SocketType) -> Peer:
    """Reads SO_PEERCRED, which the kernel fills in and the peer cannot fake."""
    return Peer(*_ucred.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size)))


def is_descendant(pid: int, ancestor: int) -> bool:
    """Returns whether `pid` descends from `ancestor`. A process does not descend from itself.

    Also True if this cannot be found out, because a process in between has exited or is hidden: callers use the answer
    to keep descendants out.
    """
    if pid == ancestor:
        return False
    while process := read_proc(pid):
        if process.ppid == ancestor:
            return True
        if process.ppid == 0:
            return False
        pid = process.ppid
    return True


def set_undumpable() -> None:
    """Forbids processes of the same user to read our memory and environment, and disables core dumps."""
    _prctl(_PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")


def set_child_subreaper() -> None:
    """Makes this process the parent of every orphaned descendant. The process must then reap them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def _prctl(option: int, value: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({name})")
