"""Tests of the check for leaked processes, which runs after every test: it can fail."""

import os
import signal
import subprocess
from pathlib import Path

from tests.fakes.process_leak_check import all_pids, find_leaked_processes

NOWHERE = "/there is no such folder/"


def leaked_processes(before: frozenset[int], folder: str = NOWHERE) -> list[tuple[int, str]]:
    return [(info.pid, info.name) for info in find_leaked_processes(before, folder, max_wait_s=0)]


def test_a_child_is_found_until_it_has_exited() -> None:
    before = all_pids()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert leaked_processes(before) == [(child.pid, "cat")]
    assert leaked_processes(before) == []


def test_a_child_that_nobody_reaps_is_found() -> None:
    before = all_pids()
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert leaked_processes(before) == [(child.pid, "true")]


def test_an_orphan_is_found_by_the_folder_in_its_environment(tmp_path: Path) -> None:
    before = all_pids()
    # It prints its pid after the exec: during an exec the environment of a process cannot be read.
    with subprocess.Popen(
        ["sh", "-c", "exec 3<&0; setsid sh -c 'echo $$; read line' <&3 &"],
        env={"PATH": os.environ["PATH"], "WALRUS_HOME": str(tmp_path / "home")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as shell:
        assert shell.stdout is not None
        orphan = int(shell.stdout.readline())
        assert shell.wait() == 0
        assert [pid for pid, _ in leaked_processes(before)] == []
        assert [pid for pid, _ in leaked_processes(before, f"{tmp_path}/")] == [orphan]
        os.kill(orphan, signal.SIGKILL)
        assert find_leaked_processes(before, f"{tmp_path}/") == []


def test_processes_from_before_the_test_are_not_found() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE):
        assert leaked_processes(all_pids()) == []
