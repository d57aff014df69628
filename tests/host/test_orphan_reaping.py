"""Tests of adopting and reaping orphans; each scenario runs in a process of its own, as walrusd does."""

import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from walrusd.host.procfs import ProcInfo, read_proc

ROOT = Path(__file__).parent.parent.parent
ENVIRON = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": os.pathsep.join(str(ROOT / at) for at in ("", "protocol", "config")),
}


def scenario_command(scenario: str) -> list[str]:
    return [sys.executable, "-m", "tests.fakes.reaper_script", scenario]


def run_scenario(scenario: str, wrapper: tuple[str, ...] = ()) -> tuple[Any, list[dict[str, Any]], list[int]]:
    """Runs a scenario; returns its result, its log lines and the pids of its remaining children.

    `wrapper` is a command that execs its arguments.
    """
    done = subprocess.run(
        [*wrapper, *scenario_command(scenario)], env=ENVIRON, cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True
    )
    result, logs, left = json.loads(done.stdout)
    return result, logs, left


def wait_exited(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(20_000), f"{pid} did not exit"
    os.close(pidfd)


def alive(pid: int) -> ProcInfo | None:
    return info if (info := read_proc(pid)) and not info.has_exited else None


def test_orphans_leave_no_zombie_and_children_keep_their_status() -> None:
    result, logs, left = run_scenario("flood")
    assert result == {"statuses": list(range(100)), "left": [], "running": 0}
    assert (logs, left) == ([], [])


def test_an_orphan_that_left_its_session_is_adopted_until_it_is_killed() -> None:
    result, logs, left = run_scenario("leave_orphan")
    assert result["parent"] == result["ours"]
    [line] = logs
    assert line["event"] == "children_killed"
    assert (
        re.sub("^(sh|sleep) ", "", *line["processes"]) == f"({result['orphan']})"
    )  # it may not have exec'ed sleep yet
    assert (left, read_proc(result["orphan"])) == ([], None)


def test_kill_all_kills_adopted_processes() -> None:
    assert run_scenario("kill_orphan") == ({"left": []}, [], [])


@pytest.mark.parametrize("scenario", ["list_preexisting", "kill_beside_preexisting"])
def test_children_from_before_the_exec_are_not_adopted_and_continue(scenario: str) -> None:
    """Such a child is the `tee` of a script that ends with `exec walrusd`; it must not lose output."""
    script = '(sleep 1000 & exec sleep 1000) > /dev/null & exec "$@"'
    result, _, left = run_scenario(scenario, wrapper=("bash", "-c", script, "bash"))
    strangers = [pid for pid in result["preexisting"] if alive(pid)]
    for pid in strangers:
        os.kill(pid, 9)
        wait_exited(pid)
    assert (len(strangers), strangers) == (2, result["preexisting"])
    assert (left, alive(result["orphan"])) == (strangers[:1], None)


def test_without_a_free_descriptor_for_proc_children_are_still_killed() -> None:
    assert run_scenario("no_files_to_look_with") == (1, [], [])


def test_without_a_free_descriptor_nothing_is_started() -> None:
    result, logs, left = run_scenario("no_files")
    assert result == [
        "'bash' could not be started: too many open files.",
        "Raise `ulimit -n`, or LimitNOFILE= of the service.",
    ]
    assert (logs, left) == ([], [])


def test_at_the_process_limit_nothing_is_started() -> None:
    result, logs, left = run_scenario("no_forks")
    assert result == [
        "'bash' could not be started: resource temporarily unavailable.",
        "End other processes, or raise the process limit: `ulimit -u`, or TasksMax= of the service.",
    ]
    assert (logs, left) == ([], [])


def test_a_child_dies_with_its_parent_and_never_runs_behind_its_start_barrier(tmp_path: Path) -> None:
    with subprocess.Popen(
        scenario_command("start_and_wait"), env=ENVIRON, cwd=tmp_path, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        gated, gated_too, dying, staying = json.loads(parent.stdout.readline())
        parent.kill()
    for pid in (gated, gated_too, dying):
        wait_exited(pid)
    assert os.listdir(tmp_path) == []
    assert alive(staying)
    os.kill(staying, 9)
    wait_exited(staying)
