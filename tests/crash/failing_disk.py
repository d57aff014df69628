"""A disk that refuses a step of the n-th write of a life, and where that lasts, all such steps until the next start."""

import errno
import os
from typing import Literal

from msgspec import Struct


class DiskFault(Struct, frozen=True, kw_only=True):
    """At the n-th write the first step of that kind fails with `number`, an errno; `lasting`, all that follow, too."""

    write: int
    step: Literal["write", "sync"]
    error_number: int
    lasting: bool


class FailingDisk:
    """`before` is what a numbered disk asks; it is told by `begin` of every write that is handed over."""

    def __init__(self, fault: DiskFault | None) -> None:
        self.has_failed = False
        """At least once."""
        self._fault = fault
        self._writes = 0
        self._fault_is_due = False

    @property
    def is_failing(self) -> bool:
        """It still does, and will."""
        return self.has_failed and self._fault is not None and self._fault.lasting

    @property
    def problem_kind(self) -> str:
        """What a client is told."""
        assert self._fault is not None
        return "storage_full" if self._fault.error_number == errno.ENOSPC else "storage_failed"

    def begin_write(self) -> None:
        self._writes += 1
        self._fault_is_due = self._fault is not None and self._writes == self._fault.write

    def before_step(self, step: str, _name: str) -> None:
        if self._fault is None or step != self._fault.step:
            return
        if self.is_failing or self._fault_is_due:
            self._fault_is_due, self.has_failed = False, True
            raise OSError(self._fault.error_number, os.strerror(self._fault.error_number))
