"""Checks the limit for open files, and has hints for errors of the machine such as a full disk."""

import errno
import resource
from collections.abc import Mapping

from walrus_config.fd_budget import MIN_FDS, compute_connection_limit
from walrus_protocol.wire import EXIT_INTERNAL
from walrusd.host.startup_error import StartupFailed

_RAISE_LIMIT_HINT = "Raise it: `ulimit -n 1024` before the start, or LimitNOFILE=1024 in its unit."

_HINTS_BY_ERRNO: Mapping[int, str] = {
    errno.EMFILE: f"The limit for open files is too low. {_RAISE_LIMIT_HINT}",
    errno.ENFILE: "The machine has too many open files. Close programs, or raise fs.file-max.",
    errno.ENOSPC: "Free space on that disk (`df -h` and `df -i` show what is left), then start again.",
    errno.EDQUOT: "Your disk quota is used up. Delete files, then start again.",
    errno.EROFS: "The file system is read-only. Mount it for writing; `dmesg` shows what happened to it.",
    errno.EIO: "The disk is failing; `dmesg` shows more. Copy the home to another disk before anything else.",
    errno.ENOMEM: "The machine has too little free memory. Close programs, then start again.",
}


def hint_for_oserror(error: OSError) -> str:
    """Returns the hint for an error that a person can fix or that passes by itself, else ""."""
    return _HINTS_BY_ERRNO.get(error.errno or 0, "")


def limit_connections(wanted: int, turns: int) -> int:
    """Returns how many of the wanted connections the limit for open files allows. Raises StartupFailed."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    allowed = compute_connection_limit(limit, wanted, turns)
    if not allowed:
        raise StartupFailed(
            f"only {limit} files may be open at once; walrusd needs at least {MIN_FDS}",
            _RAISE_LIMIT_HINT,
            EXIT_INTERNAL,
        )
    return allowed


def connection_limit_warning(allowed: int, wanted: int) -> tuple[str, ...]:
    """Returns a warning if fewer connections are allowed than wanted, else nothing."""
    warning = f"The limit for open files allows only {allowed} of the {wanted} connections in max_connections."
    return (f"{warning} {_RAISE_LIMIT_HINT}",) if allowed < wanted else ()
