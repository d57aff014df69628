"""Tests of missing resources.

walrusd reports each in one line with a hint, without a traceback or data loss.
"""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.home import MAX_WAIT_S, Home
from tests.fakes.required_programs import find_program
from walrus_protocol.client import Client, RequestFailed
from walrus_protocol.events import Done
from walrusd.agent.agent import Agent
from walrusd.providers.scripted import Scripted, ScriptedReply
from walrusd.runtime.runtime import Runtime

EXIT_UNUSABLE = 78
EXIT_TEMPORARY = 1
"""Exit status after an error that may be temporary: a service manager should restart."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def shell_wrapper(*before: str) -> list[str]:
    """Returns a wrapper command: a shell that runs some commands and then execs its arguments."""
    return ["bash", "-c", f'{"; ".join(before)}; exec "$@"', "bash"]


def check_answers(home: Home) -> int:
    """Creates a session and checks that it answers; returns its id."""
    with Client(str(home.socket), MAX_WAIT_S) as client:
        session: int = client.call("session.create", {"agent": "walrus"})["session"]
        assert client.call("session.send", {"session": session, "content": "hi"})["text"] == "hi"
    return session


def check_history(home: Home, session: int) -> None:
    with Client(str(home.socket), MAX_WAIT_S) as client:
        messages = client.call("session.history", {"session": session})["messages"]
        assert [message["content"] for message in messages] == ["hi", "hi"]


def check_start_refused(
    home: Home, status: int, *expected: str, options: Sequence[str] = (), wrapper: Sequence[str] = ()
) -> None:
    """Checks that walrusd ends by itself with an error message of one line and at most one hint."""
    ended, stderr = home.run_to_exit(*options, wrapper=wrapper)
    assert ended == status, stderr
    assert stderr.startswith("walrusd: ")
    assert len(stderr.splitlines()) <= 2, "more than an error and a hint"
    for words in expected:
        assert words in stderr


IN_DELETED_FOLDER = shell_wrapper("folder=$(mktemp -d)", 'cd "$folder"', 'rmdir "$folder"')
"""A wrapper that runs a command in a current folder that was deleted."""


@pytest.mark.parametrize(
    "wrapper",
    [
        ["env", "-u", "XDG_RUNTIME_DIR"],
        ["env", "-u", "HOME"],
        ["env", "HOME="],
        ["env", "TMPDIR=/no/such/folder"],
        ["env", "LC_ALL=POSIX", "LANG=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"],
        ["env", "-i", "PATH=/nowhere", f"PYTHONPATH={os.pathsep.join(sys.path)}"],
        IN_DELETED_FOLDER,
        shell_wrapper("umask 000"),
    ],
    ids=[
        "no XDG_RUNTIME_DIR",
        "no HOME",
        "HOME empty",
        "no TMPDIR",
        "POSIX locale",
        "no environment",
        "no cwd",
        "umask",
    ],
)
def test_it_works_in_a_reduced_environment(home: Home, wrapper: list[str]) -> None:
    with home.walrusd(wrapper=wrapper):
        session = check_answers(home)
        private = {path.name: path.stat().st_mode & 0o077 for path in home.path.iterdir()}
        assert private == dict.fromkeys(private, 0)
    with home.walrusd():
        check_history(home, session)


def test_a_home_path_may_contain_any_text_and_is_refused_if_it_is_not_utf_8(tmp_path: Path) -> None:
    home = Home(tmp_path / "Höhle 🦭")
    for locale in ("POSIX", "C.UTF-8"):
        with home.walrusd(environ={"LC_ALL": locale}):
            check_answers(home)
    latin = ["env", "LC_ALL=POSIX", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"]
    check_start_refused(home, EXIT_UNUSABLE, "is not UTF-8", "LC_ALL=C.UTF-8", wrapper=latin)
    check_start_refused(
        Home(tmp_path / os.fsdecode(b"\xff")), EXIT_UNUSABLE, "\\udcff: the path of the home is not UTF-8"
    )


def test_it_serves_with_stdin_stdout_and_stderr_closed(home: Home) -> None:
    daemon = home.start(wrapper=shell_wrapper("exec 0<&- 1>&- 2>&-"))
    try:
        home.wait_until_served()
        session = check_answers(home)
        assert daemon.terminate() == 0
    finally:
        daemon.kill()
    with home.walrusd():
        check_history(home, session)


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_a_start_error_keeps_its_exit_status_if_stderr_cannot_be_written(home: Home, stderr: str) -> None:
    home.toml.unlink()
    assert home.run_to_exit(wrapper=shell_wrapper(f"exec {stderr}")) == (EXIT_UNUSABLE, "")
    shutil.rmtree(home.path)
    daemon = home.start("--init", wrapper=shell_wrapper(f"exec {stderr}"))
    try:
        home.wait_until_served()
        assert daemon.terminate() == 0
    finally:
        daemon.kill()


def test_a_relative_home_without_a_current_folder_is_reported(home: Home) -> None:
    check_start_refused(
        home,
        EXIT_UNUSABLE,
        "here: the current folder no longer exists; use an absolute path",
        options=("--home", "here"),
        wrapper=IN_DELETED_FOLDER,
    )


def test_a_low_file_limit_reduces_connections_with_a_warning(home: Home) -> None:
    with home.walrusd(wrapper=shell_wrapper("ulimit -n 64")) as daemon:
        [warning] = [line["message"] for line in daemon.log_lines if line.get("level") == "warning"]
        assert warning.startswith("The limit for open files allows only 16 of the 512 connections")
        assert "ulimit -n 1024" in warning
        with contextlib.ExitStack() as held:
            clients = [held.enter_context(Client(str(home.socket), MAX_WAIT_S)) for _ in range(100)]
            assert clients[0].call("daemon.status")["warnings"] == [warning]
            with pytest.raises(RequestFailed) as refusal:
                clients[-1].call("daemon.ping")
            assert refusal.value.kind == "too_many_connections"
            session = clients[0].call("session.create", {"agent": "walrus"})["session"]
            assert clients[0].call("session.send", {"session": session, "content": "hi"})["text"] == "hi"
        assert "Traceback" not in daemon.stderr


@pytest.mark.parametrize("limit", [16, 32, 47])
def test_too_low_a_file_limit_is_reported_with_the_number_needed(home: Home, limit: int) -> None:
    wrapper = shell_wrapper(f"ulimit -n {limit}")
    check_start_refused(
        home, EXIT_TEMPORARY, f"only {limit} files may be open at once", "ulimit -n 1024", wrapper=wrapper
    )


def test_with_almost_no_files_the_os_error_is_reported_with_a_hint(home: Home) -> None:
    status, stderr = home.run_to_exit(wrapper=shell_wrapper("ulimit -n 10"))
    assert (status, "Traceback" in stderr) == (EXIT_TEMPORARY, False)
    assert "ulimit -n 1024" in stderr


def test_running_out_of_files_is_logged_in_one_line_and_the_daemon_continues(home: Home) -> None:
    with home.walrusd() as daemon:
        session, before = check_answers(home), resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.ExitStack() as held:
            first = held.enter_context(Client(str(home.socket), MAX_WAIT_S))
            fds = first.call("daemon.status")["fds"]
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (fds, before[1]))
            waiting = held.enter_context(Client(str(home.socket), MAX_WAIT_S))
            daemon.wait_for(lambda daemon: bool(daemon.lines_of("accept_failed")))
            assert first.call("daemon.ping") == {}, "open connections are still served"
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
            assert waiting.call("daemon.ping") == {}, "the waiting connection is served now"
        [line] = daemon.lines_of("accept_failed")
        assert "Too many open files" in line["error"]
        assert "ulimit -n" in line["hint"]
        assert "Traceback" not in daemon.stderr
        check_history(home, session)


@contextlib.contextmanager
def mount(folder: Path, *how: str) -> Iterator[Path]:
    """Mounts a file system for the duration of the block."""
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run(["mount", *how, str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def fill_filesystem(folder: Path) -> Path:
    """Fills the file system of a folder to the last byte; returns the file that does so."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return filler


def test_a_read_only_home_is_reported(tmp_path: Path) -> None:
    with mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs") as disk:
        home = Home(disk / "home")
        with home.walrusd():
            session = check_answers(home)
        before = sorted(os.listdir(home.path))
        remount(disk, "ro")
        check_start_refused(
            home,
            EXIT_UNUSABLE,
            f"{home.path}: the home is on a read-only file system; remount it for writing",
        )
        check_start_refused(home, EXIT_UNUSABLE, "read-only file system", options=("--init",))
        assert sorted(os.listdir(home.path)) == before
        assert home.walrusctl("doctor").returncode == 1
        remount(disk, "rw")
        with home.walrusd():
            check_history(home, session)


def test_a_new_home_on_a_read_only_file_system_is_reported(tmp_path: Path) -> None:
    with mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs") as disk:
        home = Home(disk / "home")
        shutil.rmtree(home.path)
        remount(disk, "ro")
        check_start_refused(home, EXIT_UNUSABLE, "cannot be created: Read-only file system", options=("--init",))


def test_a_start_on_a_full_disk_is_reported_and_succeeds_when_there_is_space(tmp_path: Path) -> None:
    with mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs") as disk:
        home = Home(disk / "home")
        filler = fill_filesystem(disk)
        check_start_refused(home, EXIT_TEMPORARY, str(home.path), "No space left on device", "Free space")
        filler.unlink()
        with home.walrusd():
            session = check_answers(home)
        filler = fill_filesystem(disk)
        ended, stderr = home.run_to_exit()
        assert (ended, "Traceback" in stderr) == (EXIT_TEMPORARY, False)
        filler.unlink()
        with home.walrusd():
            check_history(home, session)


def test_a_start_without_a_free_inode_is_reported(tmp_path: Path) -> None:
    with mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m,nr_inodes=4,mode=0700", "tmpfs") as disk:
        home = Home(disk / "home")
        (disk / "last").touch()
        check_start_refused(home, EXIT_TEMPORARY, str(home.path), "No space left on device", "Free space")


def test_a_home_half_created_on_a_full_disk_is_completed_later(tmp_path: Path) -> None:
    with mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs") as disk:
        home = Home(disk / "home")
        shutil.rmtree(home.path)
        filler = fill_filesystem(disk)
        check_start_refused(home, EXIT_UNUSABLE, "No space left on device", "check free space", options=("--init",))
        assert [path.name for path in home.path.rglob("*") if path.is_file()] == []
        filler.unlink()
        with home.walrusd("--init"):
            assert "[providers" in home.toml.read_text()


@contextlib.contextmanager
def failing_disk(tmp_path: Path) -> Iterator[Path]:
    """A real ext4 file system; remounting it with `abort` makes it read-only, as after a disk error."""
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(16 * 1024 * 1024)
    subprocess.run([find_program("mkfs.ext4"), "-q", str(image)], check=True)
    with mount(tmp_path / "disk", "-o", "loop", str(image)) as disk:
        disk.chmod(0o700)
        yield disk


def test_a_disk_that_fails_at_run_time_loses_nothing(tmp_path: Path) -> None:
    with failing_disk(tmp_path) as disk:
        home = Home(disk / "home")
        subprocess.run(["sync", str(home.toml), str(home.path), str(disk)], check=True)
        with home.walrusd() as daemon:
            session = check_answers(home)
            remount(disk, "abort")
            with Client(str(home.socket), MAX_WAIT_S) as client:
                for method, params in (
                    ("session.create", {"agent": "walrus"}),
                    ("session.send", {"session": session, "content": "more"}),
                ):
                    with pytest.raises(RequestFailed) as refusal:
                        client.call(method, params)
                    assert (refusal.value.code, refusal.value.kind) == (-32603, "storage_failed")
                    assert refusal.value.hint
            check_history(home, session)
            assert daemon.terminate() == 0
            assert "Traceback" not in daemon.stderr
        ended, stderr = home.run_to_exit()
        assert (ended, "Traceback" in stderr) == (EXIT_TEMPORARY, False)
        assert "ead-only file system" in stderr
        assert "dmesg" in stderr
        subprocess.run(["umount", str(disk)], check=True)
        subprocess.run(["mount", "-o", "loop", str(tmp_path / "image"), str(disk)], check=True)
        with home.walrusd():
            check_history(home, session)


@pytest.mark.parametrize("jump", [-7200.0, 7200.0], ids=["back", "forward"])
async def test_the_duration_of_a_turn_ignores_clock_changes(jump: float, autojump_clock: MockClock) -> None:
    began = trio.current_time()

    def time_of_day() -> float:
        now = trio.current_time() - began
        return 1e9 + now + (jump if now > 1 else 0)

    scripted = Scripted([ScriptedReply(text="It is late.", delay_s=3)])
    async with Runtime(scripted, clock=time_of_day) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus", created_by="me")
        async with runtime.stream_to(session, "How late is it?") as events:
            [done] = [event async for event in events if isinstance(event, Done)]
    assert (done.ts, done.duration_ms) == (1e9 + 3 + jump, 3000)
