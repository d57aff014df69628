"""Tests of host/kill.py: SIGKILL reaches the process that was found, and no other."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from walrusd.host.kill import kill, kill_all, wait_exited
from walrusd.host.procfs import ProcInfo, all_processes, child_pids, read_proc


@pytest.fixture
def sleeper() -> Iterator[ProcInfo]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        info = read_proc(process.pid)
        assert info
        yield info
        process.kill()


def test_a_known_process_is_killed(sleeper: ProcInfo) -> None:
    kill(sleeper)
    assert wait_exited([sleeper], 20)


def test_a_later_process_with_the_same_pid_is_not_killed(sleeper: ProcInfo) -> None:
    earlier = replace(sleeper, start=sleeper.start - 1)
    kill(earlier)
    assert wait_exited([earlier], 0), "the earlier process has exited"
    assert not wait_exited([sleeper], 0), "the later one runs"


def test_processes_forked_meanwhile_are_killed_too() -> None:
    # Each process starts the next and waits for it, as fast as it can.
    chain = "import os\nfor _ in range(2000):\n    if os.fork():\n        os.wait()\n        os._exit(0)\nos.read(0, 1)"
    with subprocess.Popen([sys.executable, "-c", chain], stdin=subprocess.PIPE, start_new_session=True) as first:
        while not child_pids(first.pid):
            pass
        killed = kill_all(lambda: [info for info in all_processes() if info.sid == first.pid])
        assert wait_exited(killed, 20)
        assert len(killed) > 1


def test_kill_all_returns_if_a_process_cannot_be_killed(sleeper: ProcInfo) -> None:
    stale = replace(sleeper, start=sleeper.start - 1)
    assert kill_all(lambda: [stale]) == [stale]


def test_an_exited_process_needs_no_wait() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    exited = ProcInfo(process.pid, "true", "R", 1, process.pid, process.pid, 1)
    kill(exited)
    assert wait_exited([exited], 0)
