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

from walrusd.host.procfs import Seen, look

ROOT = Path(__file__).parent.parent.parent
ENVIRON = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": os.pathsep.join(str(ROOT / at) for at in ("", "protocol", "config")),
}


def command(scenario: str) -> list[str]:
    return [sys.executable, "-m", "tests.fakes.adopting", scenario]


def played(scenario: str, by: tuple[str, ...] = ()) -> tuple[Any, list[dict[str, Any]], list[int]]:
    """What it told, what was logged, and the children it was left with. `by`: a command that execs what it is given."""
    done = subprocess.run(
        [*by, *command(scenario)], env=ENVIRON, cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True
    )
    told, logs, left = json.loads(done.stdout)
    return told, logs, left


def wait_gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    end = select.poll()
    end.register(pidfd, select.POLLIN)
    assert end.poll(20_000), f"{pid} did not end"
    os.close(pidfd)


def alive(pid: int) -> Seen | None:
    return seen if (seen := look(pid)) and not seen.ended else None


def test_orphans_leave_no_zombie_and_children_keep_their_status() -> None:
    told, logs, left = played("flood")
    assert told == {"statuses": list(range(100)), "left": [], "running": 0}
    assert (logs, left) == ([], [])


def test_who_has_left_every_session_is_ours_until_we_end_it() -> None:
    told, logs, left = played("left_behind")
    assert told["parent"] == told["ours"]
    [line] = logs
    assert line["event"] == "killed what was still running"
    assert re.sub("^(sh|sleep) ", "", *line["processes"]) == f"({told['stray']})"  # whether it execs sleep yet or not
    assert (left, look(told["stray"])) == ([], None)


def test_kill_all_reaches_what_was_adopted() -> None:
    assert played("killed") == ({"left": []}, [], [])


@pytest.mark.parametrize("scenario", ["stranger", "killed_beside_a_stranger"])
def test_a_child_of_whoever_became_us_is_none_of_ours_and_goes_on(scenario: str) -> None:
    """As the `tee` of a script does that ends with `exec walrusd`: killed, it would lose what was said last."""
    script = '(sleep 1000 & exec sleep 1000) > /dev/null & exec "$@"'
    told, _, left = played(scenario, by=("bash", "-c", script, "bash"))
    strangers = [pid for pid in told["strangers"] if alive(pid)]
    for pid in strangers:
        os.kill(pid, 9)
        wait_gone(pid)
    assert (len(strangers), strangers) == (2, told["strangers"])
    assert (left, alive(told["stray"])) == (strangers[:1], None)


def test_without_a_descriptor_to_look_with_what_was_started_ends_all_the_same() -> None:
    assert played("no_files_to_look_with") == (1, [], [])


def test_without_a_descriptor_more_nothing_is_started() -> None:
    told, logs, left = played("no_files")
    assert told == [
        "'bash' could not be started: too many open files.",
        "Raise `ulimit -n`, or LimitNOFILE= of the service.",
    ]
    assert (logs, left) == ([], [])


def test_without_a_process_more_nothing_is_started() -> None:
    told, logs, left = played("no_forks")
    assert told == [
        "'bash' could not be started: resource temporarily unavailable.",
        "End other processes, or raise their number: `ulimit -u`, or TasksMax= of the service.",
    ]
    assert (logs, left) == ([], [])


def test_a_child_dies_with_us_if_it_shall_and_one_behind_its_gate_never_runs(tmp_path: Path) -> None:
    with subprocess.Popen(command("mortal"), env=ENVIRON, cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        gated, gated_too, dying, staying = json.loads(parent.stdout.readline())
        parent.kill()
    for pid in (gated, gated_too, dying):
        wait_gone(pid)
    assert os.listdir(tmp_path) == []
    assert alive(staying)
    os.kill(staying, 9)
    wait_gone(staying)
