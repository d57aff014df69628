"""The socket that clients connect to, and the lock that makes this walrusd the only one of its home.

A start calls `lock_home`, then whatever needs the home, then `open_listener`; both clean up when they are left. Only
two sockets are ever removed: a stale one that refuses connections, and the one that was bound here. An inherited socket
belongs to the process that made it, and is left in place.
"""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import structlog
import trio

from walrus_config.paths import SOCKET_PATH_LIMIT
from walrus_protocol.wire import EXIT_ALREADY_RUNNING, EXIT_INTERNAL
from walrusd.host.peer_credentials import read_peer_credentials
from walrusd.host.resource_limits import hint_for_oserror
from walrusd.host.socket_activation import ListeningSocket
from walrusd.host.startup_error import StartupFailed

log = structlog.get_logger("walrusd")

BACKLOG = 1024
"""Maximum connections that wait to be accepted: five hundred clients may connect at once."""
FOLDER_LOCK_TIMEOUT_S = 5.0
"""Maximum seconds to wait for another walrusd that binds in the same folder; it needs microseconds."""
HOME_LOCK_RETRY_S = 0.1
"""Seconds between attempts to lock the home: `walrusctl service` only probes the lock briefly."""


@contextmanager
def lock_home(home: Path, socket_path: Path) -> Iterator[None]:
    """Holds the exclusive lock on `home` until the block or the process ends, however it ends.

    Leaving the block empties the lock file. A lock file that is free but not empty was left by a walrusd that was
    killed, or whose machine went down; that is logged as a warning.

    Raises StartupFailed.
    """
    check_folder(home)
    path = home / "walrusd.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise _setup_failure(f"the lock {path} cannot be opened", error) from error
    try:
        _acquire_home_lock(lock, home)
        if (previous_pid := os.pread(lock, 4096, 0).partition(b"\n")[0]).isdigit():
            log.warning("previous_run_not_stopped", previous_pid=int(previous_pid))
        try:
            # Written before it is truncated: a reader never finds it empty.
            os.truncate(lock, os.pwrite(lock, os.fsencode(f"{os.getpid()}\n{socket_path}\n"), 0))
        except OSError as error:
            raise _setup_failure(f"the lock {path} cannot be written", error) from error
        try:
            yield
        finally:
            with suppress(OSError):  # if it fails, the next start only logs a needless warning
                os.truncate(lock, 0)
    finally:
        os.close(lock)


def _acquire_home_lock(lock_fd: int, home: Path) -> None:
    if not stat.S_ISREG(os.fstat(lock_fd).st_mode):
        raise StartupFailed(f"walrusd.lock in {home} is not a regular file", "Move it away; walrusd creates a new one.")
    try:
        _try_lock(lock_fd)
    except BlockingIOError:
        pid, _, socket_path = os.pread(lock_fd, 4096, 0).decode(errors="replace").strip().partition("\n")
        unknown = "not known yet"
        raise StartupFailed(
            f"walrusd is already running on {home} (pid {pid or unknown}, socket {socket_path or unknown})",
            "Use it with walrusctl, or stop it first. To run a second one, give it another --home.",
            EXIT_ALREADY_RUNNING,
        ) from None


def _try_lock(lock_fd: int) -> None:
    """Takes the lock, with one retry. Raises BlockingIOError if it is still held."""
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(HOME_LOCK_RETRY_S)
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_folder(folder: Path) -> None:
    """Raises StartupFailed if other users could write to the folder, or walrusd could not."""
    try:
        status = folder.stat()
    except OSError as error:
        raise _setup_failure(f"the folder {folder} cannot be used", error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise StartupFailed(f"{folder} is not a folder", "Move it away, or choose another with --home or --socket.")
    if status.st_uid not in {os.geteuid(), 0}:
        raise StartupFailed(
            f"the folder {folder} belongs to another user (uid {status.st_uid})",
            "Run walrusd as its owner, or choose another with --home or --socket.",
        )
    if status.st_mode & 0o022:
        raise StartupFailed(
            f"the folder {folder} can be written by others (mode {stat.S_IMODE(status.st_mode):04o})",
            f"Remove their permission: chmod go-w {folder}",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StartupFailed(f"the folder {folder} cannot be written", f"Give yourself permission: chmod u+rwx {folder}")


@asynccontextmanager
async def open_listener(
    path: Path, inherited_socket: ListeningSocket | None = None
) -> AsyncIterator[trio.SocketListener]:
    """Yields a listener bound to `path`, which is unlinked at the end if it is still ours.

    The caller must hold the lock of its home. A stale socket file is replaced. An inherited socket is used as it is,
    and is not removed. Raises StartupFailed.
    """
    if inherited_socket:
        with inherited_socket:
            _warn_if_unreachable(inherited_socket, path)
            yield trio.SocketListener(trio.socket.from_stdlib_socket(inherited_socket))
        return
    _prepare_socket_path(path)
    with ExitStack() as stack:
        bound = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        async with _lock_folder(path.parent):
            _remove_stale_socket(path)
            _bind_and_listen(bound, path)
            stack.callback(_unlink_bound_socket, path, os.open(path, os.O_PATH | os.O_NOFOLLOW))
        yield trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def _warn_if_unreachable(inherited_socket: ListeningSocket, path: Path) -> None:
    """Logs a warning if the inherited socket is not at the path where clients look for it."""
    address = inherited_socket.getsockname()
    try:
        reachable = os.path.samefile(address, path)
    except (OSError, ValueError):  # the file does not exist, or the address is abstract and names no file
        reachable = False
    if not reachable:
        log.warning(
            "inherited_socket_unreachable",
            inherited=os.fsdecode(address),
            expected=str(path),
            hint="Clients look for another socket. Run `walrusctl service install`, then restart walrusd.socket.",
        )


def _prepare_socket_path(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_LIMIT:
        raise StartupFailed(
            f"the socket's path is too long ({size} bytes, at most {SOCKET_PATH_LIMIT}): {path}",
            "Choose a shorter one with --socket or WALRUS_SOCKET.",
        )
    with suppress(OSError):  # the check that follows reports what is wrong
        path.parent.mkdir(mode=0o700)
    check_folder(path.parent)


@asynccontextmanager
async def _lock_folder(folder: Path) -> AsyncIterator[None]:
    """Locks `folder`, so that no walrusd of another home checks or binds a socket in it at the same time."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with trio.move_on_after(FOLDER_LOCK_TIMEOUT_S) as deadline:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await trio.sleep(0.01)
        if deadline.cancelled_caught:
            raise StartupFailed(
                f"another program keeps the folder {folder} locked", "Choose another socket with --socket."
            )
        yield
    finally:
        os.close(descriptor)


def _remove_stale_socket(path: Path) -> None:
    """Removes a stale socket of this user. Raises StartupFailed if anything else is at the path."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise StartupFailed(f"{path} exists and is not a socket", "Move it away, or choose another path with --socket.")
    if status.st_uid != os.geteuid():
        raise StartupFailed(
            f"the socket {path} belongs to another user (uid {status.st_uid})", "Choose another with --socket."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)  # a full backlog answers EAGAIN at once
        error = probe.connect_ex(os.fspath(path))
        if error == errno.ECONNREFUSED:
            path.unlink()
            return
        detail = f"pid {read_peer_credentials(probe).pid}" if error == 0 else os.strerror(error)
    raise StartupFailed(
        f"another program listens on {path} ({detail})",
        "Stop it, or choose another socket with --socket or WALRUS_SOCKET.",
    )


def _bind_and_listen(unbound: socket.socket, path: Path) -> None:
    # Linux gives the file the mode of the unbound socket. So it is private from the start, without a change of the
    # umask, which would affect the whole process.
    os.fchmod(unbound.fileno(), 0o600)
    try:
        unbound.bind(os.fspath(path))
    except OSError as error:
        raise _setup_failure(f"the socket {path} cannot be bound", error) from error
    unbound.listen(BACKLOG)


def _unlink_bound_socket(path: Path, bound_fd: int) -> None:
    """Removes the socket file if it is the one that `bound_fd` keeps open; an open inode is not reused."""
    folder = -1
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(path.lstat(), os.fstat(bound_fd)):
            path.unlink()
    except OSError:
        pass  # the file is missing, or another walrusd is binding here: the next start removes a stale socket
    finally:
        os.close(bound_fd)
        if folder >= 0:
            os.close(folder)


def remove_own_socket(path: Path) -> None:
    """Removes the socket file before a forced exit, if this process listens on it.

    The peer of an inherited socket is the process that made it, so that one is left in place.
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        probe.connect(os.fspath(path))
        if read_peer_credentials(probe).pid == os.getpid():
            path.unlink()


def _setup_failure(message: str, error: OSError) -> StartupFailed:
    message = f"{message}: {error.strerror}"
    if hint := hint_for_oserror(error):  # the state of the machine is the cause: another start may succeed
        return StartupFailed(message, hint, EXIT_INTERNAL)
    return StartupFailed(message, "Choose another path with --home or --socket, or make this one usable for your user.")
