"""Who sends the requests of a connection, as the kernel and the client say."""

import os
from typing import Literal

import trio
from msgspec import Struct

from walrusd.host.peer_credentials import is_descendant, read_peer_credentials


class Principal(Struct):
    """The process at the other end of a connection; daemon.hello sets `name`."""

    kind: Literal["client", "tool"]
    """`tool`: a process that descends from walrusd, thus from a tool."""
    uid: int
    pid: int
    name: str = ""
    """The name that a client gave itself. It may be wrong, so no permission depends on it."""

    @property
    def by(self) -> str:
        """The text in events that name who did something: `client` or `client:NAME`."""
        return f"{self.kind}:{self.name}" if self.name else self.kind


def read_principal(sock: trio.socket.SocketType) -> Principal:
    """Identifies the peer when it has connected."""
    peer = read_peer_credentials(sock)
    return Principal("tool" if is_descendant(peer.pid, os.getpid()) else "client", uid=peer.uid, pid=peer.pid)
