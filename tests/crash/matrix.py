"""Runs the crash matrix: kills at every point, kills of two runs, and a disk fault at every write."""

import errno
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from tests.crash.failing_disk import DiskFault
from tests.crash.forked_runs import ForkedRuns
from tests.crash.kill_points import KillPoint
from tests.crash.single_run import RunSpec

SECOND_KILL_AFTER = ("draft “Hm.I look.”", "bash: its command runs", "count has taken effect")
"""The kill points after which the next run is killed, too, at each of its own kill points.

They are in a model reply, in a command, and in an idempotent call that is rerun.
"""


class KillRow(Struct, frozen=True):
    """A kill at one kill point, and the outcome after the next run went to its end."""

    number: int
    kill_point: KillPoint
    outcome_continue: str
    outcome_close: str | None
    """The outcome with `on_restart = "close"`; run once for each write, as only a write changes the disk."""


class DoubleKillRow(Struct, frozen=True):
    """Kills at `first` in one run and at `second` in the next, and the outcome of the third run."""

    first: int
    first_point: KillPoint
    second: int
    second_point: KillPoint
    outcome: str


FaultKind = Literal["full once", "full", "broken once", "broken"]


class DiskFaultRow(Struct, frozen=True):
    """The outcomes of a write during which the disk fails, once or until the next start of the daemon."""

    write: int
    write_description: str
    outcomes: dict[FaultKind, str]


def run_kills(runs: ForkedRuns) -> list[KillRow]:
    rows = []
    for number, point in enumerate(_kill_points(runs), 1):
        home = runs.new_home()
        runs.run_until_killed(RunSpec(folder=home, kill_at=number))
        outcome_close = None
        if point.moment == "durable":
            outcome_close = runs.run_to_end(RunSpec(folder=runs.copy_home(home), on_restart="close")).outcome
        rows.append(KillRow(number, point, runs.run_to_end(RunSpec(folder=home)).outcome, outcome_close))
    return rows


def run_double_kills(runs: ForkedRuns) -> list[DoubleKillRow]:
    """Runs the second kills until the turn has ended; a later kill would be the first one of another turn."""
    rows = []
    for first, first_point in enumerate(_kill_points(runs), 1):
        if first_point.description not in SECOND_KILL_AFTER or first_point.moment not in {"here", "applied"}:
            continue
        home = runs.new_home()
        runs.run_until_killed(RunSpec(folder=home, kill_at=first))
        killed_home = runs.copy_home(home)
        recovery = runs.run_to_end(RunSpec(folder=home)).kill_points
        for second, second_point in enumerate(_until_turn_end(recovery), 1):
            copy = runs.copy_home(killed_home)
            runs.run_until_killed(RunSpec(folder=copy, kill_at=second))
            outcome = runs.run_to_end(RunSpec(folder=copy)).outcome
            rows.append(DoubleKillRow(first, first_point, second, second_point, outcome))
    return rows


FAULT_KINDS: dict[FaultKind, tuple[Literal["write", "sync"], int]] = {
    "full once": ("write", errno.ENOSPC),
    "full": ("write", errno.ENOSPC),
    "broken once": ("sync", errno.EIO),
    "broken": ("sync", errno.EIO),
}
"""The failing step and errno of each kind.

A full disk fails at a write, a broken disk at the sync after it.
"""


def run_disk_faults(runs: ForkedRuns) -> list[DiskFaultRow]:
    writes = [point.description for point in _kill_points(runs) if point.moment == "before"]
    return [
        DiskFaultRow(number, description, {kind: _run_disk_fault(runs, number, kind) for kind in FAULT_KINDS})
        for number, description in enumerate(writes, 1)
    ]


def _run_disk_fault(runs: ForkedRuns, write: int, fault_kind: FaultKind) -> str:
    step, number = FAULT_KINDS[fault_kind]
    lasting = not fault_kind.endswith("once")
    spec = RunSpec(
        folder=runs.new_home(), fault=DiskFault(write=write, step=step, error_number=number, lasting=lasting)
    )
    if not lasting:
        return runs.run_to_end(spec).outcome
    runs.run_until_killed(spec)
    return runs.run_to_end(RunSpec(folder=spec.folder)).outcome


def _kill_points(runs: ForkedRuns) -> Sequence[KillPoint]:
    """Returns the kill points of a run without a kill or a fault."""
    report = runs.run_to_end(RunSpec(folder=runs.new_home()))
    assert report.outcome == ""
    return report.kill_points


def _until_turn_end(kill_points: Sequence[KillPoint]) -> Sequence[KillPoint]:
    ended = next(n for n, point in enumerate(kill_points) if point.description.endswith(" + done (text_response)"))
    return kill_points[: ended + 3]
