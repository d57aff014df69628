"""What walrusd needs of the machine and may run short of: descriptors, room, a disk that works. Said for a person."""

import errno
import resource
from collections.abc import Mapping

from walrus_config.fd_budget import MIN_FDS, compute_connection_limit

_RAISE_LIMIT_HINT = "Raise it: `ulimit -n 1024` before the start, or LimitNOFILE=1024 in its unit."

_HINTS_BY_ERRNO: Mapping[int, str] = {
    errno.EMFILE: f"The limit of open files is too low. {_RAISE_LIMIT_HINT}",
    errno.ENFILE: "The machine has too many files open: end what holds them, or raise fs.file-max.",
    errno.ENOSPC: "Make room there (`df -h` and `df -i` show how much there is), then start again.",
    errno.EDQUOT: "Your quota there is used up: make room, then start again.",
    errno.EROFS: "Its file system may only be read: mount it for writing; `dmesg` says what happened to it.",
    errno.EIO: "The disk fails: `dmesg` says more. Keep a copy of the home before anything else.",
    errno.ENOMEM: "The machine has too little memory: end something, then start again.",
}


class FdLimitTooLow(Exception):
    """The limit of open files leaves no room to work in."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"only {limit} files may be open at once; walrusd needs {MIN_FDS} at the very least")
        self.hint = _RAISE_LIMIT_HINT


def hint_for_oserror(error: OSError) -> str:
    """The hint for what passes, or is mended, without walrusd's being changed; "" for any other error."""
    return _HINTS_BY_ERRNO.get(error.errno or 0, "")


def limit_connections(wanted: int, turns: int) -> int:
    """How many connections to take, at most `wanted`: what the limit of open files has room for. Raises TooFewFiles."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    fit = compute_connection_limit(limit, wanted, turns)
    if not fit:
        raise FdLimitTooLow(limit)
    return fit


def connection_limit_warning(allowed: int, wanted: int) -> tuple[str, ...]:
    """What a person should know of a limit that is too low, where it is."""
    warning = f"The limit of open files leaves room for {allowed} of the {wanted} connections of max_connections."
    return (f"{warning} {_RAISE_LIMIT_HINT}",) if allowed < wanted else ()
