"""Tests of the home lock and the socket, with real files, sockets and processes."""

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from walrus_protocol.wire import EXIT_ALREADY_RUNNING
from walrusd.host.startup_error import StartupFailed
from walrusd.rpc.listener import lock_home, open_listener


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(0o700)
    return home


@contextlib.contextmanager
def other_process(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Starts a process that has run `program`, and that keeps its resources until the end of the block."""
    text = f"import socket, sys\n{program}\nprint('ready', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


LISTEN_PROGRAM = "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1)"
HOLD_PROGRAM = """
from pathlib import Path
from walrusd.rpc.listener import lock_home
held = lock_home(Path(sys.argv[1]), Path("/there/walrus.sock"))
held.__enter__()
"""


def leave_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(path))


def is_accepting(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_a_second_walrusd_on_a_home_reports_the_pid_and_socket_of_the_first(home: Path) -> None:
    with other_process(HOLD_PROGRAM, home) as first:
        with pytest.raises(StartupFailed) as refused, lock_home(home, home / "walrus.sock"):
            pass
        assert refused.value.exit_status == EXIT_ALREADY_RUNNING
        assert str(refused.value) == (
            f"walrusd is already running on {home} (pid {first.pid}, socket /there/walrus.sock)"
        )
    with lock_home(home, home / "walrus.sock"):
        assert (home / "walrusd.lock").read_text() == f"{os.getpid()}\n{home}/walrus.sock\n"


def test_a_lock_that_is_held_but_not_written_yet_is_respected(home: Path) -> None:
    with lock_home(home, home / "walrus.sock"):
        os.truncate(home / "walrusd.lock", 0)
        with pytest.raises(StartupFailed, match=r"pid not known yet, socket not known yet"), lock_home(home, home):
            pass


def test_a_program_that_probes_the_lock_does_not_prevent_a_start(home: Path) -> None:
    with open(home / "walrusd.lock", "w") as probe:
        fcntl.flock(probe, fcntl.LOCK_SH)
        before = signal.signal(signal.SIGALRM, lambda *_: fcntl.flock(probe, fcntl.LOCK_UN))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        try:
            with lock_home(home, home / "walrus.sock"):
                pass
        finally:
            signal.signal(signal.SIGALRM, before)


def test_the_lock_of_a_walrusd_that_was_killed_is_free(home: Path) -> None:
    (home / "walrusd.lock").write_text("4194304999\n/a/longer/path/than/the/new/one/ever/is/walrus.sock\n")
    with lock_home(home, home / "s"):
        assert (home / "walrusd.lock").read_text() == f"{os.getpid()}\n{home}/s\n"


@pytest.mark.parametrize(
    ("mode", "reason"),
    [(0o770, "can be written by others (mode 0770)"), (0o702, "can be written by others (mode 0702)")],
)
async def test_a_folder_that_others_can_write_is_refused(home: Path, mode: int, reason: str) -> None:
    os.chmod(home, mode)
    with pytest.raises(StartupFailed) as refused, lock_home(home, home / "walrus.sock"):
        pass
    assert str(refused.value) == f"the folder {home} {reason}"
    assert refused.value.hint == f"Remove their permission: chmod go-w {home}"
    with pytest.raises(StartupFailed, match="can be written by others"):
        async with open_listener(home / "walrus.sock"):
            pass


def test_a_home_that_cannot_be_used_is_refused_with_the_reason(home: Path) -> None:
    with pytest.raises(StartupFailed, match="No such file or directory"), lock_home(home / "gone", home / "s"):
        pass
    (home / "file").touch()
    with pytest.raises(StartupFailed, match="is not a folder"), lock_home(home / "file", home / "s"):
        pass


def test_a_lock_that_is_not_a_regular_file_is_refused_and_left(home: Path) -> None:
    lock = home / "walrusd.lock"
    (home / "elsewhere").write_text("precious")
    lock.symlink_to("elsewhere")
    with pytest.raises(StartupFailed, match="Too many levels of symbolic links"), lock_home(home, home / "s"):
        pass
    assert (home / "elsewhere").read_text() == "precious"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(StartupFailed, match="is not a regular file"), lock_home(home, home / "s"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(home: Path) -> None:
    os.chown(home, 65534, 65534)
    with (
        pytest.raises(StartupFailed, match="belongs to another user \\(uid 65534\\)"),
        lock_home(home, home / "s"),
    ):
        pass


async def test_the_socket_is_private_whatever_the_umask_and_removed_afterwards(home: Path) -> None:
    path = home / "run" / "walrus.sock"
    before = os.umask(0)
    try:
        async with open_listener(path) as listener:
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert is_accepting(path)
            await (await listener.accept()).aclose()
    finally:
        os.umask(before)
    assert not path.exists()


async def test_five_hundred_clients_can_connect_before_one_is_accepted(home: Path) -> None:
    path = home / "walrus.sock"
    async with open_listener(path) as listener:
        with contextlib.ExitStack() as stack:
            for _ in range(500):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
            for _ in range(500):
                await (await listener.accept()).aclose()


async def test_a_stale_socket_is_replaced(home: Path) -> None:
    path = home / "walrus.sock"
    leave_stale_socket(path)
    assert not is_accepting(path)
    async with open_listener(path):
        assert is_accepting(path)
    assert not path.exists()


async def test_a_socket_that_accepts_connections_is_left(home: Path) -> None:
    path = home / "walrus.sock"
    with other_process(LISTEN_PROGRAM, path) as live:
        before = path.lstat()
        with pytest.raises(StartupFailed) as refused:
            async with open_listener(path):
                pass
        assert str(refused.value) == f"another program listens on {path} (pid {live.pid})"
        assert os.path.samestat(path.lstat(), before)
        assert is_accepting(path)


async def test_a_socket_whose_backlog_is_full_is_left(home: Path) -> None:
    path = home / "walrus.sock"
    with other_process(LISTEN_PROGRAM, path), contextlib.ExitStack() as stack:
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(path)) != 0:
                break
        with pytest.raises(StartupFailed, match=r"another program listens on .* \(Resource temporarily unavailable\)"):
            async with open_listener(path):
                pass
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "link to a stale socket", "dangling link"])
async def test_a_file_that_is_not_a_socket_is_refused_and_left(home: Path, kind: str) -> None:
    path = home / "walrus.sock"
    leave_stale_socket(home / "stale")
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "link to a stale socket":
            path.symlink_to("stale")
        case _:
            path.symlink_to("gone")
    before = path.lstat()
    with pytest.raises(StartupFailed, match="exists and is not a socket"):
        async with open_listener(path):
            pass
    assert os.path.samestat(path.lstat(), before)
    assert (home / "stale").is_socket()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
async def test_a_stale_socket_of_another_user_is_refused_and_left(home: Path) -> None:
    path = home / "walrus.sock"
    leave_stale_socket(path)
    os.chown(path, 65534, 65534)
    with pytest.raises(StartupFailed, match="belongs to another user"):
        async with open_listener(path):
            pass
    assert path.is_socket()


async def test_a_path_that_is_too_long_is_refused_with_the_numbers(home: Path) -> None:
    path = home / ("x" * 120)
    with pytest.raises(StartupFailed, match=r"too long \(\d+ bytes, at most 107\)") as refused:
        async with open_listener(path):
            pass
    assert "WALRUS_SOCKET" in refused.value.hint


async def test_the_longest_path_that_fits_is_bound(home: Path) -> None:
    path = home / ("x" * (106 - len(os.fsencode(home))))
    async with open_listener(path):
        assert is_accepting(path)


async def test_a_folder_that_cannot_be_made_is_reported(home: Path) -> None:
    with pytest.raises(StartupFailed, match="No such file or directory"):
        async with open_listener(home / "a" / "b" / "walrus.sock"):
            pass


@pytest.mark.parametrize("close_first", [False, True])
async def test_only_the_socket_that_was_bound_is_removed_at_the_end(home: Path, close_first: bool) -> None:
    path = home / "walrus.sock"
    async with open_listener(path) as listener:
        path.unlink()
        if close_first:
            await listener.aclose()
        leave_stale_socket(path)
    assert path.is_socket()


async def test_only_one_of_two_simultaneous_starts_on_one_socket_succeeds(home: Path) -> None:
    path = home / "walrus.sock"
    leave_stale_socket(path)
    outcomes: list[str] = []
    decided = trio.Event()

    async def start() -> None:
        try:
            async with open_listener(path):
                outcomes.append("listens")
                with trio.fail_after(5):
                    await decided.wait()
        except StartupFailed:
            outcomes.append("refused")
            decided.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        nursery.start_soon(start)
    assert sorted(outcomes) == ["listens", "refused"]


async def test_a_folder_that_stays_locked_is_reported_after_a_timeout(home: Path, autojump_clock: MockClock) -> None:
    folder = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(StartupFailed, match="another program keeps the folder"):
            async with open_listener(home / "walrus.sock"):
                pass
    finally:
        os.close(folder)
