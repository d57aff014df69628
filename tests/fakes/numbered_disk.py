"""A disk under SQLite whose every step can be counted, refused, or the last one: the real file system below a door."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw

Before = Callable[[str, str], None]
"""Told (step, file name) before a step is done. May raise an OSError or one of apsw's, or kill the process."""


class _File(apsw.VFSFile):
    def __init__(self, before: Before, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._before = before
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self._name = os.path.basename(path)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._before("write", self._name)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - as above
        self._before("sync", self._name)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - as above
        self._before("truncate", self._name)
        super().xTruncate(newsize)


class _Disk(apsw.VFS):
    def __init__(self, before: Before) -> None:
        super().__init__("numbered", "unix", makedefault=True)
        self._told = before
        self._last = 0

    def _before(self, step: str, name: str) -> None:
        """SQLite is told of an OSError as its own file system tells it."""
        try:
            self._told(step, name)
        except OSError as error:
            self._last = error.errno or 0
            if step == "write" and error.errno == errno.ENOSPC:
                raise apsw.FullError from error
            raise apsw.IOError from error

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:  # noqa: N802 - as above
        return _File(self._before, name, flags)

    def xGetLastError(self) -> tuple[int, str]:  # noqa: N802 - as above
        return self._last, os.strerror(self._last)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - as above
        self._before("delete", os.path.basename(filename))
        super().xDelete(filename, syncdir)


@contextmanager
def numbered_disk(before: Before) -> Iterator[None]:
    """While it holds, every database that this process opens lies on it. Syncs are told, yet not done: no test
    cuts the power, and they take most of the time."""
    disk = _Disk(before)
    try:
        yield
    finally:
        disk.unregister()
        apsw.set_default_vfs("unix")
