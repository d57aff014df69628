"""A SQLite VFS on the real file system with a hook before every write, sync, truncate and delete."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw

StepHook = Callable[[str, str], None]
"""A function that is called with (step, file name) before each step.

It may raise an OSError or apsw error, or end the process.
"""


class _FaultInjectingFile(apsw.VFSFile):
    def __init__(self, hook: StepHook, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._hook = hook
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self._name = os.path.basename(path)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._hook("write", self._name)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - as above
        self._hook("sync", self._name)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - as above
        self._hook("truncate", self._name)
        super().xTruncate(newsize)


class _FaultInjectingVfs(apsw.VFS):
    def __init__(self, hook: StepHook) -> None:
        super().__init__("fault_injecting", "unix", makedefault=True)
        self._hook = hook
        self._last_errno = 0

    def _run_hook(self, step: str, name: str) -> None:
        """Calls the hook, and reports an OSError to SQLite in the way of its own file system."""
        try:
            self._hook(step, name)
        except OSError as error:
            self._last_errno = error.errno or 0
            if step == "write" and error.errno == errno.ENOSPC:
                raise apsw.FullError from error
            raise apsw.IOError from error

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _FaultInjectingFile:  # noqa: N802 - as above
        return _FaultInjectingFile(self._run_hook, name, flags)

    def xGetLastError(self) -> tuple[int, str]:  # noqa: N802 - as above
        return self._last_errno, os.strerror(self._last_errno)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - as above
        self._run_hook("delete", os.path.basename(filename))
        super().xDelete(filename, syncdir)


@contextmanager
def fault_injecting_vfs(hook: StepHook) -> Iterator[None]:
    """Puts every database that this process opens meanwhile on this VFS.

    Syncs are passed to the hook but not done: no test cuts the power, and they would take most of the time.
    """
    vfs = _FaultInjectingVfs(hook)
    try:
        yield
    finally:
        vfs.unregister()
        apsw.set_default_vfs("unix")
