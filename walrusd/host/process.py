"""What walrusd asks the kernel about processes, itself included."""

import ctypes
import os
import socket
from pathlib import Path
from struct import Struct as Layout

import trio
from msgspec import Struct

_PR_SET_DUMPABLE = 4
_ucred = Layout("iII")


class Peer(Struct, frozen=True):
    """Who was at the other end of a Unix socket when it was connected."""

    pid: int
    """0 for a process that this one cannot see: it lives in another PID namespace."""
    uid: int
    gid: int


def peer_of(connected: socket.socket | trio.socket.SocketType) -> Peer:
    """By SO_PEERCRED: the kernel's word, not the peer's."""
    return Peer(*_ucred.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size)))


def descends_from(pid: int, ancestor: int) -> bool:
    """Whether `ancestor` is a parent, or a parent's parent …, of `pid`. No process descends from itself.

    True also where this cannot be found out, because a process on the way up has ended or is hidden: whoever asks
    wants to keep descendants out.
    """
    if pid == ancestor:
        return False
    while (parent := _parent(pid)) is not None:
        if parent == ancestor:
            return True
        if parent == 0:
            return False
        pid = parent
    return True


def undumpable() -> None:
    """Keep other processes of the same user from reading this one's memory and environment, and its core from disk."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def rss_bytes() -> int:
    """The memory of this process that is in RAM now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # pid (comm) state ppid …: comm is whatever the process says, spaces and parentheses too, so count from its end.
    return int(stat[stat.rindex(b")") + 1 :].split()[1])
