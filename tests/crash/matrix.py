"""The whole crash matrix: every boundary, and what became of the life that was ended, or refused, there."""

import errno
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from tests.crash.failing_disk import DiskFault
from tests.crash.forked_runs import ForkedRuns
from tests.crash.kill_points import KillPoint
from tests.crash.single_run import RunSpec

SECOND_KILL_AFTER = ("draft “Hm.I look.”", "bash: its process is at work", "count has taken effect")
"""Where a life is killed whose next one is killed too, at each of its boundaries: while the model speaks, in a command,
and in a call that is made again."""


class KillRow(Struct, frozen=True):
    """By -9 at a boundary; the next life goes its whole way."""

    number: int
    kill_point: KillPoint
    outcome_continue: str
    outcome_close: str | None
    """With on_restart = "close"; asked once for each write, as nothing else changes what is on the disk."""


class DoubleKillRow(Struct, frozen=True):
    """At the boundary `first` of a life, and at `second` of the next; the third goes its whole way."""

    first: int
    first_point: KillPoint
    second: int
    second_point: KillPoint
    outcome: str


FaultKind = Literal["full once", "full", "broken once", "broken"]


class DiskFaultRow(Struct, frozen=True):
    """A write whose disk fails, once, or until the next life."""

    write: int
    write_description: str
    outcomes: dict[FaultKind, str]


def run_kills(runs: ForkedRuns) -> list[KillRow]:
    rows = []
    for number, place in enumerate(_kill_points(runs), 1):
        home = runs.new_home()
        runs.run_until_killed(RunSpec(folder=home, kill_at=number))
        closes = None
        if place.moment == "durable":
            closes = runs.run_to_end(RunSpec(folder=runs.copy_home(home), on_restart="close")).outcome
        rows.append(KillRow(number, place, runs.run_to_end(RunSpec(folder=home)).outcome, closes))
    return rows


def run_double_kills(runs: ForkedRuns) -> list[DoubleKillRow]:
    """Until the turn has ended; what comes behind it has been killed once only."""
    rows = []
    for first, at in enumerate(_kill_points(runs), 1):
        if at.description not in SECOND_KILL_AFTER or at.moment not in {"here", "applied"}:
            continue
        home = runs.new_home()
        runs.run_until_killed(RunSpec(folder=home, kill_at=first))
        left = runs.copy_home(home)
        recovery = runs.run_to_end(RunSpec(folder=home)).kill_points
        for second, then_at in enumerate(_until_turn_end(recovery), 1):
            again = runs.copy_home(left)
            runs.run_until_killed(RunSpec(folder=again, kill_at=second))
            rows.append(DoubleKillRow(first, at, second, then_at, runs.run_to_end(RunSpec(folder=again)).outcome))
    return rows


FAULT_KINDS: dict[FaultKind, tuple[Literal["write", "sync"], int]] = {
    "full once": ("write", errno.ENOSPC),
    "full": ("write", errno.ENOSPC),
    "broken once": ("sync", errno.EIO),
    "broken": ("sync", errno.EIO),
}
"""A full disk is found by a write, a broken one by the sync behind it."""


def run_disk_faults(runs: ForkedRuns) -> list[DiskFaultRow]:
    writes = [place.description for place in _kill_points(runs) if place.moment == "before"]
    return [
        DiskFaultRow(number, what, {disk: _run_disk_fault(runs, number, disk) for disk in FAULT_KINDS})
        for number, what in enumerate(writes, 1)
    ]


def _run_disk_fault(runs: ForkedRuns, write: int, fault_kind: FaultKind) -> str:
    step, number = FAULT_KINDS[fault_kind]
    lasting = not fault_kind.endswith("once")
    life = RunSpec(
        folder=runs.new_home(), fault=DiskFault(write=write, step=step, error_number=number, lasting=lasting)
    )
    if not lasting:
        return runs.run_to_end(life).outcome
    runs.run_until_killed(life)
    return runs.run_to_end(RunSpec(folder=life.folder)).outcome


def _kill_points(runs: ForkedRuns) -> Sequence[KillPoint]:
    """The boundaries of a life that nothing befalls."""
    account = runs.run_to_end(RunSpec(folder=runs.new_home()))
    assert account.outcome == ""
    return account.kill_points


def _until_turn_end(kill_points: Sequence[KillPoint]) -> Sequence[KillPoint]:
    ended = next(n for n, place in enumerate(kill_points) if place.description.endswith(" + done (text_response)"))
    return kill_points[: ended + 3]
