"""The socket that clients connect to, and the lock that makes this walrusd the only one of its home.

Start: `hold_home`, then whatever needs the home, then `listening`. Both undo themselves on the way out. Nothing is
ever removed that is not provably ours: a socket that nobody answers, or the very one that was bound here. One that was
inherited belongs to who made it, and outlives us.
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
from walrusd.host.peer_credentials import read_peer_credentials
from walrusd.host.resource_limits import hint_for_oserror
from walrusd.host.socket_activation import ListeningSocket

log = structlog.get_logger("walrusd")

BACKLOG = 1024
"""Connections that wait to be accepted: five hundred clients may come at once."""
FOLDER_LOCK_TIMEOUT_S = 5.0
"""For another walrusd that binds in the same folder at this moment; it needs microseconds."""
HOME_LOCK_RETRY_S = 0.1
"""For who only looks whether the home is held, as `walrusctl service` does: that takes microseconds, too."""


class AlreadyRunning(Exception):
    """Another walrusd has this home. `pid` and `socket` are None where it has not written them yet."""

    def __init__(self, home: Path, pid: int | None, socket: str | None) -> None:
        super().__init__(
            f"walrusd is already running on {home} (pid {pid or 'not known yet'}, socket {socket or 'not known yet'})"
        )
        self.pid = pid
        self.socket = socket
        self.hint = "Talk to it with walrusctl, or stop it first; a second one needs a --home of its own."


class ListenerSetupFailed(Exception):
    """The home or the socket cannot be used. `hint` tells a person what to do; `passing` is true where it is not for
    a wrong place, but for the state of the machine: another start may go well.
    """

    def __init__(self, message: str, hint: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.transient = transient


@contextmanager
def lock_home(home: Path, socket_path: Path) -> Iterator[None]:
    """Be the only walrusd on `home`, until the end of this context or of the process, however it ends.

    The lock is empty after this context: one that is free and written is of a walrusd that was killed, or lost its
    machine, and the log is told of it.

    Raises AlreadyRunning and ListenerRefused.
    """
    check_folder(home)
    path = home / "walrusd.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise _setup_failure(f"the lock {path} cannot be opened", error) from error
    try:
        _acquire_home_lock(lock, home)
        if (before := os.pread(lock, 4096, 0).partition(b"\n")[0]).isdigit():
            told = f"the walrusd before this one (pid {before.decode()}) ended without stopping"
            log.warning(told)
        try:
            # Written before it is cut to size: whoever looks never finds it empty.
            os.truncate(lock, os.pwrite(lock, os.fsencode(f"{os.getpid()}\n{socket_path}\n"), 0))
        except OSError as error:
            raise _setup_failure(f"the lock {path} cannot be written", error) from error
        try:
            yield
        finally:
            with suppress(OSError):  # a next start that is told too much is no harm
                os.truncate(lock, 0)
    finally:
        os.close(lock)


def _acquire_home_lock(lock_fd: int, home: Path) -> None:
    if not stat.S_ISREG(os.fstat(lock_fd).st_mode):
        raise ListenerSetupFailed(f"walrusd.lock in {home} is no regular file", "Move it away; walrusd makes its own.")
    try:
        _try_lock(lock_fd)
    except BlockingIOError:
        pid, _, socket_path = os.pread(lock_fd, 4096, 0).decode(errors="replace").strip().partition("\n")
        raise AlreadyRunning(home, int(pid) if pid.isdigit() else None, socket_path or None) from None


def _try_lock(lock_fd: int) -> None:
    """Raises BlockingIOError where it is held, and not for a moment only."""
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(HOME_LOCK_RETRY_S)
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_folder(folder: Path) -> None:
    """Raises ListenerRefused for a folder in which others could put or swap files, or we could not."""
    try:
        found = folder.stat()
    except OSError as error:
        raise _setup_failure(f"the folder {folder} cannot be used", error) from error
    if not stat.S_ISDIR(found.st_mode):
        raise ListenerSetupFailed(f"{folder} is no folder", "Move it away, or name another with --home or --socket.")
    if found.st_uid not in {os.geteuid(), 0}:
        raise ListenerSetupFailed(
            f"the folder {folder} belongs to another user (uid {found.st_uid})",
            "Run walrusd as its owner, or name another with --home or --socket.",
        )
    if found.st_mode & 0o022:
        raise ListenerSetupFailed(
            f"the folder {folder} can be written by others (mode {stat.S_IMODE(found.st_mode):04o})",
            f"Close it: chmod go-w {folder}",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ListenerSetupFailed(
            f"the folder {folder} cannot be written", f"Open it for yourself: chmod u+rwx {folder}"
        )


@asynccontextmanager
async def open_listener(
    path: Path, inherited_socket: ListeningSocket | None = None
) -> AsyncIterator[trio.SocketListener]:
    """A listener bound to `path`, which is unlinked at the end if it is still ours. Raises ListenerRefused.

    Only for one who holds its home. A socket file that nobody answers is taken over. One that was `inherited` is
    listened on as it is, and left to who made it.
    """
    if inherited_socket:
        with inherited_socket:
            _warn_if_unreachable(inherited_socket, path)
            yield trio.SocketListener(trio.socket.from_stdlib_socket(inherited_socket))
        return
    _prepare_socket_path(path)
    with ExitStack() as held:
        bound = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        async with _lock_folder(path.parent):
            _remove_dead_socket(path)
            _bind_and_listen(bound, path)
            held.callback(_unlink_bound_socket, path, os.open(path, os.O_PATH | os.O_NOFOLLOW))
        yield trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def _warn_if_unreachable(inherited_socket: ListeningSocket, path: Path) -> None:
    """Say so where clients will not find what walrusd listens on: it is of no use, but somebody may know better."""
    at = inherited_socket.getsockname()
    try:
        found = os.path.samefile(at, path)
    except (OSError, ValueError):  # there is no such file, and an abstract address is the name of none
        found = False
    if not found:
        log.warning(
            "clients will not find the socket that systemd handed over",
            handed_over=os.fsdecode(at),
            looked_for=str(path),
            hint="`walrusctl service install` writes the units anew; restart walrusd.socket then.",
        )


def _prepare_socket_path(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_LIMIT:
        raise ListenerSetupFailed(
            f"the socket's path is too long ({size} bytes, at most {SOCKET_PATH_LIMIT}): {path}",
            "Name a shorter one with --socket or WALRUS_SOCKET.",
        )
    with suppress(OSError):  # what is wrong with it is told by the check that follows
        path.parent.mkdir(mode=0o700)
    check_folder(path.parent)


@asynccontextmanager
async def _lock_folder(folder: Path) -> AsyncIterator[None]:
    """Keep other walrusds, of other homes, from judging and binding a socket in `folder` at the same time."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with trio.move_on_after(FOLDER_LOCK_TIMEOUT_S) as waited:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await trio.sleep(0.01)
        if waited.cancelled_caught:
            raise ListenerSetupFailed(
                f"another program keeps the folder {folder} locked", "Name another socket with --socket."
            )
        yield
    finally:
        os.close(descriptor)


def _remove_dead_socket(path: Path) -> None:
    """Remove a dead socket of ours. Raises ListenerRefused for anything else that is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenerSetupFailed(f"{path} is there and is no socket", "Move it away, or name another with --socket.")
    if found.st_uid != os.geteuid():
        raise ListenerSetupFailed(
            f"the socket {path} belongs to another user (uid {found.st_uid})", "Name another with --socket."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)  # a full backlog answers EAGAIN at once
        answer = probe.connect_ex(os.fspath(path))
        if answer == errno.ECONNREFUSED:
            path.unlink()
            return
        who = f"pid {read_peer_credentials(probe).pid}" if answer == 0 else os.strerror(answer)
    raise ListenerSetupFailed(
        f"another program listens on {path} ({who})", "Stop it, or name another socket with --socket or WALRUS_SOCKET."
    )


def _bind_and_listen(unbound: socket.socket, path: Path) -> None:
    # Linux gives the file the mode of the unbound socket: private from its first moment, with no change of the
    # umask, which is the whole process's.
    os.fchmod(unbound.fileno(), 0o600)
    try:
        unbound.bind(os.fspath(path))
    except OSError as error:
        raise _setup_failure(f"the socket {path} cannot be bound", error) from error
    unbound.listen(BACKLOG)


def _unlink_bound_socket(path: Path, bound_fd: int) -> None:
    """Remove the socket file if it is the one that `ours` keeps open: its inode cannot have been given away since."""
    folder = -1
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(path.lstat(), os.fstat(bound_fd)):
            path.unlink()
    except OSError:
        pass  # gone, or another walrusd is binding here: a dead socket is in nobody's way, the next start removes it
    finally:
        os.close(bound_fd)
        if folder >= 0:
            os.close(folder)


def remove_own_socket(path: Path) -> None:
    """Remove the socket file before a sudden end, if this process is who listens on it: one that was inherited has
    the process that made it as its other side.
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        probe.connect(os.fspath(path))
        if read_peer_credentials(probe).pid == os.getpid():
            path.unlink()


def _setup_failure(what: str, error: OSError) -> ListenerSetupFailed:
    mend = hint_for_oserror(error)
    hint = mend or "Name another place with --home or --socket, or free this one for your user."
    return ListenerSetupFailed(f"{what}: {error.strerror}", hint, transient=bool(mend))
