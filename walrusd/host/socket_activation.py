"""Takes over the listening socket that systemd created.

Clients that connect during a restart wait in its queue.
"""

import os
import socket
import stat
from collections.abc import MutableMapping

from walrusd.host.startup_error import StartupFailed

ListeningSocket = socket.socket
"""A listening Unix stream socket."""
FIRST_FD = 3
"""Number of the first descriptor that the service manager passes, by sd_listen_fds(3)."""


def take_activation_socket(environ: MutableMapping[str, str]) -> ListeningSocket | None:
    """Returns the socket that the service manager passed, or None. Children do not inherit it.

    Removes the manager's variables from the environment, where a child would read them. Raises StartupFailed.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or count in ("", "0"):
        return None  # no socket, or one for an ancestor: a process that was given a socket and started us
    if count != "1":
        raise _invalid_activation(f"{count} sockets")
    try:
        is_socket = stat.S_ISSOCK(os.fstat(FIRST_FD).st_mode)
    except OSError as error:
        raise _invalid_activation(f"a descriptor that is not open ({error.strerror})") from error
    if not is_socket:
        raise _invalid_activation("a descriptor that is not a socket")
    os.set_inheritable(FIRST_FD, False)  # noqa: FBT003 - the signature is the standard library's
    inherited = socket.socket(fileno=FIRST_FD)
    if inherited.family != socket.AF_UNIX or inherited.type != socket.SOCK_STREAM:
        raise _invalid_activation("a socket that is not a Unix stream socket")
    if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise _invalid_activation("a socket that does not listen")
    return inherited


def _invalid_activation(passed: str) -> StartupFailed:
    return StartupFailed(
        f"the service manager passed {passed}",
        "walrusd.socket needs exactly one ListenStream=, a path. Run `walrusctl service install` to write it.",
    )
