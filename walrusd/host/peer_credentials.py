"""What walrusd asks the kernel about processes, itself included."""

import ctypes
import socket
from pathlib import Path
from struct import Struct as Layout

import trio
from msgspec import Struct

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_ucred = Layout("iII")


class Peer(Struct, frozen=True):
    """Who was at the other end of a Unix socket when it was connected."""

    pid: int
    """0 for a process that this one cannot see: it lives in another PID namespace."""
    uid: int
    gid: int


def read_peer_credentials(sock: socket.socket | trio.socket.SocketType) -> Peer:
    """By SO_PEERCRED: the kernel's word, not the peer's."""
    return Peer(*_ucred.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size)))


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether `ancestor` is a parent, or a parent's parent …, of `pid`. No process descends from itself.

    True also where this cannot be found out, because a process on the way up has ended or is hidden: whoever asks
    wants to keep descendants out.
    """
    if pid == ancestor:
        return False
    while (parent := _parent_pid(pid)) is not None:
        if parent == ancestor:
            return True
        if parent == 0:
            return False
        pid = parent
    return True


def set_undumpable() -> None:
    """Keep other processes of the same user from reading this one's memory and environment, and its core from disk."""
    _prctl(_PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")


def set_child_subreaper() -> None:
    """Become the parent of every process that descends from this one and loses its own; whoever does must reap them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def _prctl(option: int, value: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({name})")


def _parent_pid(pid: int) -> int | None:
    """0 for the first of all; None for a process that has ended or is hidden."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # pid (comm) state ppid …: comm is whatever the process says, spaces and parentheses too, so count from its end.
    return int(stat[stat.rindex(b")") + 1 :].split()[1])
