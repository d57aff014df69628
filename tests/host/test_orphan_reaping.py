"""Orphans are adopted and reaped, and nobody's status is taken: in processes of their own, as walrusd is one."""

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
    """What it told, what was logged, and the children it was left with. `by`: a command that execs what it is given."""
    done = subprocess.run(
        [*wrapper, *scenario_command(scenario)], env=ENVIRON, cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True
    )
    told, logs, left = json.loads(done.stdout)
    return told, logs, left


def wait_exited(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    end = select.poll()
    end.register(pidfd, select.POLLIN)
    assert end.poll(20_000), f"{pid} did not end"
    os.close(pidfd)


def alive(pid: int) -> ProcInfo | None:
    return seen if (seen := read_proc(pid)) and not seen.has_exited else None


def test_orphans_leave_no_zombie_and_children_keep_their_status() -> None:
    told, logs, left = run_scenario("flood")
    assert told == {"statuses": list(range(100)), "left": [], "running": 0}
    assert (logs, left) == ([], [])


def test_an_orphan_that_left_its_session_is_adopted_until_it_is_killed() -> None:
    told, logs, left = run_scenario("left_behind")
    assert told["parent"] == told["ours"]
    [line] = logs
    assert line["event"] == "killed what was still running"
    assert re.sub("^(sh|sleep) ", "", *line["processes"]) == f"({told['stray']})"  # whether it execs sleep yet or not
    assert (left, read_proc(told["stray"])) == ([], None)


def test_kill_all_reaches_what_was_adopted() -> None:
    assert run_scenario("killed") == ({"left": []}, [], [])


@pytest.mark.parametrize("scenario", ["stranger", "killed_beside_a_stranger"])
def test_children_from_before_the_exec_are_not_adopted_and_continue(scenario: str) -> None:
    """As the `tee` of a script does that ends with `exec walrusd`: killed, it would lose what was said last."""
    script = '(sleep 1000 & exec sleep 1000) > /dev/null & exec "$@"'
    told, _, left = run_scenario(scenario, wrapper=("bash", "-c", script, "bash"))
    strangers = [pid for pid in told["strangers"] if alive(pid)]
    for pid in strangers:
        os.kill(pid, 9)
        wait_exited(pid)
    assert (len(strangers), strangers) == (2, told["strangers"])
    assert (left, alive(told["stray"])) == (strangers[:1], None)


def test_without_a_free_descriptor_for_proc_children_are_still_killed() -> None:
    assert run_scenario("no_files_to_look_with") == (1, [], [])


def test_without_a_free_descriptor_nothing_is_started() -> None:
    told, logs, left = run_scenario("no_files")
    assert told == [
        "'bash' could not be started: too many open files.",
        "Raise `ulimit -n`, or LimitNOFILE= of the service.",
    ]
    assert (logs, left) == ([], [])


def test_at_the_process_limit_nothing_is_started() -> None:
    told, logs, left = run_scenario("no_forks")
    assert told == [
        "'bash' could not be started: resource temporarily unavailable.",
        "End other processes, or raise their number: `ulimit -u`, or TasksMax= of the service.",
    ]
    assert (logs, left) == ([], [])


def test_a_child_dies_with_its_parent_and_never_runs_behind_its_start_barrier(tmp_path: Path) -> None:
    with subprocess.Popen(scenario_command("mortal"), env=ENVIRON, cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        gated, gated_too, dying, staying = json.loads(parent.stdout.readline())
        parent.kill()
    for pid in (gated, gated_too, dying):
        wait_exited(pid)
    assert os.listdir(tmp_path) == []
    assert alive(staying)
    os.kill(staying, 9)
    wait_exited(staying)
