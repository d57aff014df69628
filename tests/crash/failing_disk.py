"""Simulates a disk that fails a step of the n-th write, once or until the next start of the daemon."""

import errno
import os
from typing import Literal

from msgspec import Struct


class DiskFault(Struct, frozen=True, kw_only=True):
    """The fault of the n-th write: its first `step` fails with the errno `error_number`.

    If `lasting`, all later steps of that kind fail, too.
    """

    write: int
    step: Literal["write", "sync"]
    error_number: int
    lasting: bool


class FailingDisk:
    """Raises the fault in `before_step`, which the fault-injecting VFS calls.

    `begin_write` counts the writes.
    """

    def __init__(self, fault: DiskFault | None) -> None:
        self.has_failed = False
        """Whether the fault was raised at least once."""
        self._fault = fault
        self._writes = 0
        self._fault_is_due = False

    @property
    def is_failing(self) -> bool:
        """Whether the disk has failed and will keep failing."""
        return self.has_failed and self._fault is not None and self._fault.lasting

    @property
    def problem_kind(self) -> str:
        """The kind of the error that a client gets."""
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
