"""The whole crash matrix: every boundary, and what became of the life that was ended, or refused, there."""

import errno
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from tests.crash.boundaries import Place
from tests.crash.failing_disk import Fault
from tests.crash.life import Life
from tests.crash.lives import Lives

TWICE = ("draft “Hm.I look.”", "bash: its process is at work", "count has taken effect")
"""Where a life is killed whose next one is killed too, at each of its boundaries: while the model speaks, in a command,
and in a call that is made again."""


class Killed(Struct, frozen=True):
    """By -9 at a boundary; the next life goes its whole way."""

    number: int
    place: Place
    continues: str
    closes: str | None
    """With on_restart = "close"; asked once for each write, as nothing else changes what is on the disk."""


class KilledTwice(Struct, frozen=True):
    """At the boundary `first` of a life, and at `second` of the next; the third goes its whole way."""

    first: int
    at: Place
    second: int
    then_at: Place
    outcome: str


Disk = Literal["full once", "full", "broken once", "broken"]


class Refused(Struct, frozen=True):
    """A write whose disk fails, once, or until the next life."""

    write: int
    what: str
    outcomes: dict[Disk, str]


def kills(lives: Lives) -> list[Killed]:
    rows = []
    for number, place in enumerate(_passed(lives), 1):
        home = lives.new()
        lives.killed(Life(folder=home, dies_at=number))
        closes = None
        if place.moment == "durable":
            closes = lives.whole(Life(folder=lives.home(home), on_restart="close")).outcome
        rows.append(Killed(number, place, lives.whole(Life(folder=home)).outcome, closes))
    return rows


def second_kills(lives: Lives) -> list[KilledTwice]:
    """Until the turn has ended; what comes behind it has been killed once only."""
    rows = []
    for first, at in enumerate(_passed(lives), 1):
        if at.what not in TWICE or at.moment not in {"here", "applied"}:
            continue
        home = lives.new()
        lives.killed(Life(folder=home, dies_at=first))
        left = lives.home(home)
        recovery = lives.whole(Life(folder=home)).passed
        for second, then_at in enumerate(_to_the_end_of_the_turn(recovery), 1):
            again = lives.home(left)
            lives.killed(Life(folder=again, dies_at=second))
            rows.append(KilledTwice(first, at, second, then_at, lives.whole(Life(folder=again)).outcome))
    return rows


DISKS: dict[Disk, tuple[Literal["write", "sync"], int]] = {
    "full once": ("write", errno.ENOSPC),
    "full": ("write", errno.ENOSPC),
    "broken once": ("sync", errno.EIO),
    "broken": ("sync", errno.EIO),
}
"""A full disk is found by a write, a broken one by the sync behind it."""


def refusals(lives: Lives) -> list[Refused]:
    writes = [place.what for place in _passed(lives) if place.moment == "before"]
    return [
        Refused(number, what, {disk: _refused(lives, number, disk) for disk in DISKS})
        for number, what in enumerate(writes, 1)
    ]


def _refused(lives: Lives, write: int, disk: Disk) -> str:
    step, number = DISKS[disk]
    lasting = not disk.endswith("once")
    life = Life(folder=lives.new(), fault=Fault(write=write, step=step, number=number, lasting=lasting))
    if not lasting:
        return lives.whole(life).outcome
    lives.killed(life)
    return lives.whole(Life(folder=life.folder)).outcome


def _passed(lives: Lives) -> Sequence[Place]:
    """The boundaries of a life that nothing befalls."""
    account = lives.whole(Life(folder=lives.new()))
    assert account.outcome == ""
    return account.passed


def _to_the_end_of_the_turn(passed: Sequence[Place]) -> Sequence[Place]:
    ended = next(n for n, place in enumerate(passed) if place.what.endswith(" + done (text_response)"))
    return passed[: ended + 3]
