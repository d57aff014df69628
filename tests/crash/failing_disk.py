"""A disk that refuses a step of the n-th write of a life, and where that lasts, all such steps until the next start."""

import errno
import os
from typing import Literal

from msgspec import Struct


class Fault(Struct, frozen=True, kw_only=True):
    """At the n-th write the first step of that kind fails with `number`, an errno; `lasting`, all that follow, too."""

    write: int
    step: Literal["write", "sync"]
    number: int
    lasting: bool


class FailingDisk:
    """`before` is what a numbered disk asks; it is told by `begin` of every write that is handed over."""

    def __init__(self, fault: Fault | None) -> None:
        self.failed = False
        """At least once."""
        self._fault = fault
        self._writes = 0
        self._due = False

    @property
    def fails(self) -> bool:
        """It still does, and will."""
        return self.failed and self._fault is not None and self._fault.lasting

    @property
    def kind(self) -> str:
        """What a client is told."""
        assert self._fault is not None
        return "storage_full" if self._fault.number == errno.ENOSPC else "storage_failed"

    def begin(self) -> None:
        self._writes += 1
        self._due = self._fault is not None and self._writes == self._fault.write

    def before(self, step: str, _name: str) -> None:
        if self._fault is None or step != self._fault.step:
            return
        if self.fails or self._due:
            self._due, self.failed = False, True
            raise OSError(self._fault.number, os.strerror(self._fault.number))
