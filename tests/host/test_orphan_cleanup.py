"""Tests of orphan_cleanup: processes that a killed walrusd left running are killed, and no others."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from walrus_protocol.events import ProcessGroupId
from walrusd.host.orphan_cleanup import CALL_MARKER_VARIABLE, call_marker, kill_orphans
from walrusd.host.procfs import boot_id, read_proc

OUR_MARKER = call_marker(7, 2, "call_1")
HOME = f"/somewhere/walrus-{os.getpid()}"
"""The home in the marker; unique, because other tests run at the same time."""
StartGroup = Callable[..., "OrphanGroup"]


class OrphanGroup:
    """A process group as walrusd would have started it, with the id that walrusd would have recorded."""

    def __init__(self, script: str, marker: str, home: str) -> None:
        self.leader = subprocess.Popen(
            ["bash", "-c", f"echo $$; {script}"],
            env={"PATH": os.environ["PATH"], CALL_MARKER_VARIABLE: marker, "WALRUS_HOME": home},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        info = read_proc(self.leader.pid)
        assert info
        self.process = ProcessGroupId(self.leader.pid, info.start, boot_id())
        assert self.read_pid() == self.leader.pid, "its environment can be read only a moment after its start"

    @property
    def pid(self) -> int:
        return self.leader.pid

    def read_pid(self) -> int:
        """Returns the next pid that it prints."""
        assert self.leader.stdout
        return int(self.leader.stdout.readline())


@pytest.fixture
def start_group() -> Iterator[StartGroup]:
    """Returns a function that starts groups; those that survive the test are killed after it."""
    with ExitStack() as afterwards:

        def start(script: str, marker: str = OUR_MARKER, home: str = HOME) -> OrphanGroup:
            group = OrphanGroup(script, marker, home)
            afterwards.enter_context(group.leader)  # waits for it
            afterwards.callback(group.leader.kill)
            return group

        yield start


def alive(*pids: int) -> list[int]:
    return [pid for pid in pids if (info := read_proc(pid)) and not info.has_exited]


def test_the_whole_group_is_killed(start_group: StartGroup) -> None:
    group = start_group("sleep 1000 & echo $!; wait")
    child = group.read_pid()
    assert kill_orphans([(group.process, OUR_MARKER)], HOME) == sorted([group.pid, child])
    assert alive(group.pid, child) == []


def test_the_leader_is_found_without_its_marker(start_group: StartGroup) -> None:
    group = start_group("exec env -i sleep 1000", marker="", home="")
    assert kill_orphans([(group.process, OUR_MARKER)], HOME) == [group.pid]


def test_a_group_without_its_leader_is_found_by_the_marker(start_group: StartGroup) -> None:
    group = start_group("sleep 1000 & echo $!")
    child = group.read_pid()
    group.leader.wait()
    assert kill_orphans([(group.process, OUR_MARKER)], HOME) == [child]


def test_a_process_without_a_marker_is_found_by_another_one_of_its_group(start_group: StartGroup) -> None:
    group = start_group(f"sleep 1000 & echo $!; env -i {shutil.which('sleep')} 1000 & echo $!")
    marked, bare = group.read_pid(), group.read_pid()
    group.leader.wait()
    assert kill_orphans([(group.process, OUR_MARKER)], HOME) == sorted([marked, bare])


def test_a_process_that_left_the_session_is_found_by_the_marker(start_group: StartGroup) -> None:
    group = start_group("setsid sleep 1000 & echo $!")
    stray = group.read_pid()
    group.leader.wait()
    assert kill_orphans([(group.process, OUR_MARKER)], HOME) == [stray]


def test_each_group_has_its_own_marker(start_group: StartGroup) -> None:
    markers = [call_marker(1, turn, "call") for turn in range(3)]
    groups = [start_group("exec sleep 1000", marker=marker) for marker in markers]
    started = [(group.process, marker) for group, marker in zip(groups, markers, strict=True)]
    assert kill_orphans(started[:2], HOME) == [groups[0].pid, groups[1].pid]
    assert alive(*(group.pid for group in groups)) == [groups[2].pid]


@pytest.mark.parametrize("later", [1, -1])
def test_a_process_with_only_the_same_pid_is_spared(start_group: StartGroup, later: int) -> None:
    group = start_group("exec sleep 1000", marker="")
    recorded = replace(group.process, start=group.process.start + later)
    assert kill_orphans([(recorded, OUR_MARKER)], HOME) == []
    assert alive(group.pid)


def test_a_group_with_only_the_same_id_is_spared(start_group: StartGroup) -> None:
    group = start_group("sleep 1000 & echo $!; sleep 1000", marker=call_marker(7, 3, "call_1"))
    child = group.read_pid()
    recorded = replace(group.process, start=group.process.start - 1)
    assert kill_orphans([(recorded, OUR_MARKER)], HOME) == []
    assert alive(group.pid, child) == [group.pid, child]
    os.kill(child, 9)


def test_a_process_of_another_boot_is_spared(start_group: StartGroup) -> None:
    group = start_group("exec sleep 1000")
    assert kill_orphans([(replace(group.process, boot="another"), OUR_MARKER)], HOME) == []
    assert alive(group.pid)


def test_a_process_of_another_home_is_spared(start_group: StartGroup) -> None:
    group = start_group("exec sleep 1000", home=f"{HOME}/2")
    assert kill_orphans([(replace(group.process, start=group.process.start - 1), OUR_MARKER)], HOME) == []
    assert alive(group.pid)


def test_a_process_with_the_marker_of_an_earlier_call_is_spared(start_group: StartGroup) -> None:
    group = start_group("exec sleep 1000")
    assert kill_orphans([(replace(group.process, start=group.process.start + 1), OUR_MARKER)], HOME) == []
    assert alive(group.pid)


def test_a_walrusd_that_was_started_by_a_tool_does_not_kill_itself(start_group: StartGroup, tmp_path: Path) -> None:
    program = tmp_path / "next.py"
    program.write_text(f"""
import json, os, sys
from walrus_protocol.events import ProcessGroupId
from walrusd.host.procfs import boot_id
from walrusd.host.orphan_cleanup import kill_orphans
leader = ProcessGroupId(*json.loads(sys.stdin.readline()), boot_id())
print(json.dumps(kill_orphans([(leader, {OUR_MARKER!r})], {HOME!r})))
""")
    with subprocess.Popen(
        ["bash", "-c", f"{sys.executable} {program}; true"],
        env={
            **os.environ,
            CALL_MARKER_VARIABLE: OUR_MARKER,
            "WALRUS_HOME": HOME,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as shell:
        info = read_proc(shell.pid)
        assert info
        output, _ = shell.communicate(json.dumps([shell.pid, info.start]).encode() + b"\n", timeout=30)
    assert (json.loads(output), shell.returncode) == ([], 0)


def test_if_nothing_was_started_no_process_is_scanned() -> None:
    assert kill_orphans([], HOME) == []


@given(st.integers(1, 2**53), st.integers(1, 2**53), st.text())
def test_a_marker_is_short_and_plain_whatever_the_call_id(session: int, turn: int, call_id: str) -> None:
    marker = call_marker(session, turn, call_id)
    assert len(marker) <= 60
    assert marker.isascii()
    assert marker.isprintable()
    assert marker == call_marker(session, turn, call_id)


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99), st.text(max_size=5)), unique=True))
def test_no_two_calls_share_a_marker(calls: list[tuple[int, int, str]]) -> None:
    assert len({call_marker(*call) for call in calls}) == len(calls)
