"""The listening socket that systemd made and keeps: clients that come while walrusd restarts wait in it."""

import os
import socket
import stat
from collections.abc import MutableMapping

ListeningSocket = socket.socket
"""A listening Unix stream socket."""
FIRST_FD = 3
"""Where the descriptors that are handed over begin: sd_listen_fds(3)."""


class InvalidActivation(Exception):
    """What the service manager handed over is not what walrusd can serve. `hint` tells a person what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(f"the service manager handed over {message}")
        self.hint = "walrusd.socket needs exactly one ListenStream=, a path: `walrusctl service install` writes it."


def take_activation_socket(environ: MutableMapping[str, str]) -> ListeningSocket | None:
    """The socket that was handed over, checked and kept from children; None where there is none.

    Takes what it says of it out of the environment, where a child would read it. Raises BadInheritance.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or count in ("", "0"):
        return None  # nothing, or another's: meant for a process that has exec'ed into something that started us
    if count != "1":
        raise InvalidActivation(f"{count} sockets")
    try:
        is_socket = stat.S_ISSOCK(os.fstat(FIRST_FD).st_mode)
    except OSError as error:
        raise InvalidActivation(f"a descriptor that is not open ({error.strerror})") from error
    if not is_socket:
        raise InvalidActivation("what is no socket")
    os.set_inheritable(FIRST_FD, False)  # noqa: FBT003 - what the standard library calls it
    given = socket.socket(fileno=FIRST_FD)
    if given.family != socket.AF_UNIX or given.type != socket.SOCK_STREAM:
        raise InvalidActivation("a socket that is no Unix stream socket")
    if not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise InvalidActivation("a socket that does not listen")
    return given
