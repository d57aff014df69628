"""Writes a file completely or not at all: to a temporary file beside it, which then replaces it."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def atomic_write(path: str) -> Iterator[TextIO]:
    """Opens a file for writing; at the end of the block it is synced and replaces any old file.

    Only its owner may read it. A pipe or a device is written directly. Raises OSError with a file name.
    """
    # Before resolving links: the target of a link in /proc may have no path.
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        with open(path, "w", encoding="utf-8") as special:
            yield special
        return
    path = os.path.realpath(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)[:200]}.", dir=os.path.dirname(path))
    try:
        with open(descriptor, "w", encoding="utf-8") as new:
            yield new
            new.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
