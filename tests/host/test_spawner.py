"""Tests of the spawner with real child processes, from the request to the exit."""

import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from walrusd.host.child import Child
from walrusd.host.launch import SpawnFailed
from walrusd.host.procfs import boot_id, read_proc
from walrusd.host.spawner import Spawner

ENV = {"PATH": os.environ["PATH"]}
UMASK = 0o027


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    async with Spawner(UMASK) as spawner:
        yield spawner
        assert spawner.unreaped_count == 0, "each test closes the children that it starts"


async def spawn_shell(spawner: Spawner, script: str, **how: Any) -> Child:
    return await spawner.spawn(["bash", "-c", script], **{"cwd": "/", "env": ENV, **how})


async def read_output(child: Child) -> str:
    """Returns all of the process output."""
    with trio.fail_after(20):
        return b"".join([piece async for piece in child.output]).decode()


async def read_pid(child: Child) -> int:
    """Returns the pid in the first line of its output."""
    with trio.fail_after(20):
        line = b""
        while not line.endswith(b"\n"):
            line += await child.output.receive_some()
    return int(line)


async def wait_status(child: Child) -> int:
    with trio.fail_after(20):
        return await child.wait()


async def wait_exited(pid: int) -> None:
    """Waits for the exit of a process that need not be our child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with trio.fail_after(20):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)


async def test_a_child_runs_where_and_how_the_request_says(spawner: Spawner, tmp_path: Path) -> None:
    script = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv[1:], "cwd": os.getcwd(), "umask": os.umask(0), "stdin": sys.stdin.read(),
    "leads": os.getpid() == os.getpgid(0) == os.getsid(0), "pid": os.getpid(),
    "environ": sorted(os.environ.keys() - {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}),
}))
"""
    argv = [sys.executable, "-I", "-c", script, "a b", "", "$HOME *", "-n", "é"]
    async with await spawner.spawn(argv, cwd=str(tmp_path), env={**ENV, "MINE": "1"}) as child:
        answer = json.loads(await read_output(child))
        assert await wait_status(child) == 0
    assert answer == {
        "argv": ["a b", "", "$HOME *", "-n", "é"],
        "cwd": str(tmp_path),
        "umask": UMASK,
        "stdin": "",
        "leads": True,
        "pid": child.pid,
        "environ": ["MINE", "PATH"],
    }


async def test_a_child_has_no_descriptor_but_0_1_and_2(spawner: Spawner) -> None:
    async with await spawner.spawn(["ls", "/proc/self/fd"], cwd="/", env=ENV) as child:
        assert (await read_output(child)).split() == ["0", "1", "2", "3"]  # 3: the folder that ls reads


async def test_a_child_blocks_no_signal_and_leaves_sigpipe_alone(spawner: Spawner) -> None:
    async with await spawner.spawn(["cat", "/proc/self/status"], cwd="/", env=ENV) as child:
        masks = dict(line.split(":\t") for line in (await read_output(child)).splitlines() if line.startswith("Sig"))
    pipe = 1 << (signal.SIGPIPE - 1)
    assert (int(masks["SigBlk"], 16), int(masks["SigCgt"], 16), int(masks["SigIgn"], 16) & pipe) == (0, 0, 0)


async def test_a_child_is_identified_by_pid_start_time_and_boot_id(spawner: Spawner) -> None:
    async with await spawn_shell(spawner, "read forever", stdin="pipe") as child:
        info = read_proc(child.pid)
        assert info
        assert (child.process.pgid, child.process.start, child.process.boot) == (child.pid, info.start, boot_id())
        assert spawner.unreaped_count == 1


async def test_stdout_and_stderr_come_merged_or_separate(spawner: Spawner) -> None:
    async with await spawn_shell(spawner, "echo out; echo err >&2") as child:
        assert (await read_output(child), child.stderr) == ("out\nerr\n", None)
    async with await spawn_shell(spawner, "echo out; echo err >&2", stderr="pipe") as child:
        assert child.stderr
        assert await read_output(child) == "out\n"
        assert await child.stderr.receive_some() == b"err\n"


async def test_everything_written_to_stdin_reaches_the_program(spawner: Spawner) -> None:
    async with await spawner.spawn(["cat"], cwd="/", env=ENV, stdin="pipe") as child:
        assert child.stdin
        await child.stdin.send_all(b"first\nsecond\n")
        await child.stdin.aclose()
        assert await read_output(child) == "first\nsecond\n"


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 201", 201), ("kill -TERM $$", -15)])
async def test_any_number_of_tasks_may_wait_for_the_exit(spawner: Spawner, script: str, status: int) -> None:
    async with await spawn_shell(spawner, script) as child:
        with trio.move_on_after(0):
            await child.wait()  # a cancelled wait takes nothing from the others
        statuses = list[int]()

        async def wait() -> None:
            statuses.append(await wait_status(child))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(wait)
    assert statuses == [status] * 5
    assert await child.wait() == status


async def test_each_of_many_children_reports_its_own_status(spawner: Spawner) -> None:
    statuses = dict[int, int]()

    async def one(status: int) -> None:
        async with await spawn_shell(spawner, f"exit {status}") as child:
            statuses[status] = await wait_status(child)

    async with trio.open_nursery() as nursery:
        for status in range(100):
            nursery.start_soon(one, status)
    assert statuses == {status: status for status in range(100)}


async def test_nothing_runs_before_the_start_barrier_is_released(spawner: Spawner, tmp_path: Path) -> None:
    async with await spawn_shell(spawner, "echo done > it", cwd=str(tmp_path), with_start_barrier=True) as child:
        info = read_proc(child.pid)
        assert info
        assert info.start == child.process.start
        assert os.listdir(tmp_path) == []
        child.release_start_barrier()
        assert await wait_status(child) == 0
    assert (tmp_path / "it").read_text() == "done\n"


async def test_a_child_killed_behind_its_start_barrier_never_runs(spawner: Spawner, tmp_path: Path) -> None:
    async with await spawn_shell(spawner, "echo done > it", cwd=str(tmp_path), with_start_barrier=True) as child:
        child.kill()
        assert await wait_status(child) == -signal.SIGKILL
        child.release_start_barrier()
    assert os.listdir(tmp_path) == []


async def test_behind_a_start_barrier_that_is_never_released_nothing_runs(spawner: Spawner, tmp_path: Path) -> None:
    async with await spawn_shell(spawner, "echo done > it", cwd=str(tmp_path), with_start_barrier=True):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("moment", range(4))
async def test_a_child_whose_caller_is_cancelled_does_nothing(spawner: Spawner, tmp_path: Path, moment: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: spawn_shell(spawner, "echo done > it", cwd=str(tmp_path)))
        for _ in range(moment):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    async with await spawn_shell(spawner, "exit 0") as next_one:  # the thread takes its jobs in order
        await wait_status(next_one)
    assert spawner.unreaped_count == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000 & echo $!; wait",
        "sleep 1000 & echo $!",
        "set -m; sleep 1000 & echo $!; wait",
        "set -m; sleep 1000 & echo $!",
    ],
    ids=["a grandchild", "left behind", "in a group of its own", "left behind in a group of its own"],
)
async def test_closing_a_child_kills_its_group_and_session(spawner: Spawner, script: str) -> None:
    async with await spawn_shell(spawner, script) as child:
        grandchild = await read_pid(child)
        assert read_proc(grandchild)
    await wait_exited(grandchild)


async def test_kill_kills_the_whole_group_and_may_be_repeated(spawner: Spawner) -> None:
    async with await spawn_shell(spawner, "sleep 1000 & echo $!; wait") as child:
        grandchild = await read_pid(child)
        child.kill()
        child.kill()
        assert await wait_status(child) == -signal.SIGKILL
        await wait_exited(grandchild)
        child.kill()
    child.kill()
    await child.aclose()


async def test_a_process_that_left_the_session_may_keep_the_pipe_but_not_block_the_child(spawner: Spawner) -> None:
    async with await spawn_shell(spawner, "setsid sh -c 'echo $$; exec sleep 1000' &") as child:
        stray = await read_pid(child)
        assert await wait_status(child) == 0
        with trio.move_on_after(0.01) as scope:
            await child.output.receive_some()
        assert scope.cancelled_caught
    assert read_proc(stray)
    os.kill(stray, signal.SIGKILL)


async def test_closing_is_not_cancelled(spawner: Spawner) -> None:
    with trio.CancelScope() as scope:
        async with await spawn_shell(spawner, "sleep 1000 & echo $!; wait") as child:
            grandchild = await read_pid(child)
            scope.cancel()
    assert spawner.unreaped_count == 0
    await wait_exited(grandchild)


async def test_leaving_kills_and_logs_children_that_were_not_closed() -> None:
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with Spawner(UMASK) as spawner:
            children = [await spawn_shell(spawner, "sleep 1000 & echo $!; wait") for _ in range(3)]
            grandchildren = [await read_pid(child) for child in children]
    assert spawner.unreaped_count == 0
    [line] = logs
    assert (line["log_level"], line["event"]) == ("warning", "children_killed")
    # A grandchild may not have exec'ed sleep yet.
    assert sorted(re.sub("^(bash|sleep) ", "", name) for name in line["processes"]) == sorted(
        f"({pid})" for pid in [*grandchildren, *(child.pid for child in children)]
    )
    for pid in grandchildren:
        await wait_exited(pid)
    assert [read_proc(child.pid) for child in children] == [None] * 3


async def test_leaving_logs_nothing_if_all_children_were_closed() -> None:
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with Spawner(UMASK) as spawner, await spawn_shell(spawner, "exit 0"):
            pass
    assert logs == []


async def test_kill_all_kills_every_group_at_once(spawner: Spawner) -> None:
    async with (
        await spawn_shell(spawner, "read forever", with_start_barrier=True) as one,
        await spawn_shell(spawner, "sleep 1000") as other,
    ):
        spawner.kill_all()
        assert [await wait_status(one), await wait_status(other)] == [-signal.SIGKILL] * 2


async def spawn_failure(spawner: Spawner, argv: Sequence[str], **how: Any) -> tuple[str, str]:
    with pytest.raises(SpawnFailed) as failed:
        await spawner.spawn(argv, **{"cwd": "/", "env": ENV, **how})
    return str(failed.value), failed.value.hint


async def test_a_missing_program_is_named(spawner: Spawner, tmp_path: Path) -> None:
    assert await spawn_failure(spawner, ["no-such-program"]) == (
        "There is no program called no-such-program.",
        "Install it, or add its folder to PATH.",
    )
    assert await spawn_failure(spawner, ["bash"], env={"PATH": str(tmp_path)}) == (
        "There is no program called bash.",
        "Install it, or add its folder to PATH.",
    )
    assert await spawn_failure(spawner, ["./it"], cwd=str(tmp_path)) == (
        f"'./it' could not be started: {tmp_path}/./it: no such file or directory.",
        f"Check that {tmp_path}/./it exists and that you have permission to use it.",
    )


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
async def test_a_file_that_cannot_be_executed_is_refused(spawner: Spawner, tmp_path: Path, make: Any) -> None:
    make(tmp_path / "it")
    assert await spawn_failure(spawner, ["./it"], cwd=str(tmp_path)) == (
        f"'./it' could not be started: {tmp_path}/./it: permission denied.",
        f"Check that {tmp_path}/./it exists and that you have permission to use it.",
    )


async def test_a_path_that_is_not_a_folder_is_named(spawner: Spawner, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await spawn_failure(spawner, ["true"], cwd=f"{tmp_path}/none") == (
        f"'true' could not be started: {tmp_path}/none: no such file or directory.",
        f"Check that {tmp_path}/none exists and that you have permission to use it.",
    )
    assert await spawn_failure(spawner, ["true"], cwd=f"{tmp_path}/file") == (
        f"'true' could not be started: {tmp_path}/file: not a directory.",
        f"Check that {tmp_path}/file exists and that you have permission to use it.",
    )


async def test_arguments_that_no_process_can_take_are_refused(spawner: Spawner) -> None:
    assert await spawn_failure(spawner, ["true", "x" * 4_000_000]) == (
        "'true' could not be started: argument list too long.",
        "Put long text into a file and pass its name.",
    )
    assert await spawn_failure(spawner, ["true", "a\0b"]) == (
        "'true' could not be started: embedded null byte.",
        "Remove NUL characters from the arguments, the environment and the folder.",
    )


async def test_a_closed_spawner_starts_nothing() -> None:
    async with Spawner(UMASK) as spawner:
        pass
    assert await spawn_failure(spawner, ["true"]) == ("true was not started: walrusd is stopping.", "")
