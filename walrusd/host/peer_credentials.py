"""Identifies the process at the other end of a Unix socket."""

import socket
from struct import Struct as Layout

import trio
from msgspec import Struct

from walrusd.host.procfs import read_proc

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
