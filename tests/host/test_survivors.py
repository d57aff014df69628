"""What a dead walrusd left running is found and ended, and nobody else."""

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

from walrus_protocol.events import Process
from walrusd.host.procfs import boot_id, look
from walrusd.host.survivors import MARK, end_survivors, mark_of

OURS = mark_of(7, 2, "call_1")
HOME = f"/somewhere/walrus-{os.getpid()}"
"""Not that of a test that runs beside this one."""
Start = Callable[..., "Started"]


class Started:
    """A process group as a walrusd would have started it, and what it would have written down."""

    def __init__(self, script: str, mark: str, home: str) -> None:
        self.leader = subprocess.Popen(
            ["bash", "-c", f"echo $$; {script}"],
            env={"PATH": os.environ["PATH"], MARK: mark, "WALRUS_HOME": home},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        seen = look(self.leader.pid)
        assert seen
        self.process = Process(self.leader.pid, seen.start, boot_id())
        assert self.says() == self.leader.pid, "its environment is there to be seen only a moment after its start"

    @property
    def pid(self) -> int:
        return self.leader.pid

    def says(self) -> int:
        """The next pid that it prints."""
        assert self.leader.stdout
        return int(self.leader.stdout.readline())


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts groups, and ends what a test has spared."""
    with ExitStack() as afterwards:

        def start(script: str, mark: str = OURS, home: str = HOME) -> Started:
            started = Started(script, mark, home)
            afterwards.enter_context(started.leader)  # waits for it
            afterwards.callback(started.leader.kill)
            return started

        yield start


def alive(*pids: int) -> list[int]:
    return [pid for pid in pids if (seen := look(pid)) and not seen.ended]


def test_a_group_is_ended_whole(start: Start) -> None:
    group = start("sleep 1000 & echo $!; wait")
    child = group.says()
    assert end_survivors([(group.process, OURS)], HOME) == sorted([group.pid, child])
    assert alive(group.pid, child) == []


def test_the_leader_is_known_without_its_mark(start: Start) -> None:
    group = start("exec env -i sleep 1000", mark="", home="")
    assert end_survivors([(group.process, OURS)], HOME) == [group.pid]


def test_a_group_that_lost_its_leader_is_known_by_the_mark(start: Start) -> None:
    group = start("sleep 1000 & echo $!")
    child = group.says()
    group.leader.wait()
    assert end_survivors([(group.process, OURS)], HOME) == [child]


def test_who_has_no_mark_is_known_by_one_in_the_group_that_has(start: Start) -> None:
    group = start(f"sleep 1000 & echo $!; env -i {shutil.which('sleep')} 1000 & echo $!")
    marked, bare = group.says(), group.says()
    group.leader.wait()
    assert end_survivors([(group.process, OURS)], HOME) == sorted([marked, bare])


def test_who_has_left_the_session_is_known_by_the_mark(start: Start) -> None:
    group = start("setsid sleep 1000 & echo $!")
    stray = group.says()
    group.leader.wait()
    assert end_survivors([(group.process, OURS)], HOME) == [stray]


def test_each_group_has_its_own_mark(start: Start) -> None:
    marks = [mark_of(1, turn, "call") for turn in range(3)]
    groups = [start("exec sleep 1000", mark=mark) for mark in marks]
    started = [(group.process, mark) for group, mark in zip(groups, marks, strict=True)]
    assert end_survivors(started[:2], HOME) == [groups[0].pid, groups[1].pid]
    assert alive(*(group.pid for group in groups)) == [groups[2].pid]


@pytest.mark.parametrize("later", [1, -1])
def test_one_that_has_only_the_number_is_spared(start: Start, later: int) -> None:
    group = start("exec sleep 1000", mark="")
    written = replace(group.process, start=group.process.start + later)
    assert end_survivors([(written, OURS)], HOME) == []
    assert alive(group.pid)


def test_a_group_that_has_only_the_number_is_spared(start: Start) -> None:
    group = start("sleep 1000 & echo $!; sleep 1000", mark=mark_of(7, 3, "call_1"))
    child = group.says()
    written = replace(group.process, start=group.process.start - 1)
    assert end_survivors([(written, OURS)], HOME) == []
    assert alive(group.pid, child) == [group.pid, child]
    os.kill(child, 9)


def test_one_of_another_boot_is_spared(start: Start) -> None:
    group = start("exec sleep 1000")
    assert end_survivors([(replace(group.process, boot="another"), OURS)], HOME) == []
    assert alive(group.pid)


def test_one_of_another_home_is_spared(start: Start) -> None:
    group = start("exec sleep 1000", home=f"{HOME}/2")
    assert end_survivors([(replace(group.process, start=group.process.start - 1), OURS)], HOME) == []
    assert alive(group.pid)


def test_one_with_the_mark_of_an_earlier_call_of_the_name_is_spared(start: Start) -> None:
    group = start("exec sleep 1000")
    assert end_survivors([(replace(group.process, start=group.process.start + 1), OURS)], HOME) == []
    assert alive(group.pid)


def test_a_walrusd_that_was_started_by_a_tool_does_not_end_itself(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "next.py"
    program.write_text(f"""
import json, os, sys
from walrus_protocol.events import Process
from walrusd.host.procfs import boot_id
from walrusd.host.survivors import end_survivors
leader = Process(*json.loads(sys.stdin.readline()), boot_id())
print(json.dumps(end_survivors([(leader, {OURS!r})], {HOME!r})))
""")
    with subprocess.Popen(
        ["bash", "-c", f"{sys.executable} {program}; true"],
        env={**os.environ, MARK: OURS, "WALRUS_HOME": HOME, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as shell:
        seen = look(shell.pid)
        assert seen
        said, _ = shell.communicate(json.dumps([shell.pid, seen.start]).encode() + b"\n", timeout=30)
    assert (json.loads(said), shell.returncode) == ([], 0)


def test_where_nothing_was_started_nobody_is_looked_for() -> None:
    assert end_survivors([], HOME) == []


@given(st.integers(1, 2**53), st.integers(1, 2**53), st.text())
def test_a_mark_is_short_and_plain_whatever_the_call_id(session: int, turn: int, call_id: str) -> None:
    mark = mark_of(session, turn, call_id)
    assert len(mark) <= 60
    assert mark.isascii()
    assert mark.isprintable()
    assert mark == mark_of(session, turn, call_id)


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99), st.text(max_size=5)), unique=True))
def test_no_two_calls_share_a_mark(calls: list[tuple[int, int, str]]) -> None:
    assert len({mark_of(*call) for call in calls}) == len(calls)
