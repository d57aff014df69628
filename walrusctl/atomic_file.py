"""A file that is there whole or not at all: written beside its place, and put there when nothing is missing."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def atomic_write(path: str) -> Iterator[TextIO]:
    """Written to within; at the end it is on the disk, for its owner alone, in the place of what was there.

    What is no file of its own, a pipe or a device, is written as it is. Raises OSError, which names a file.
    """
    # First as it was named: what a link of /proc points to may have no name of its own.
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        with open(path, "w", encoding="utf-8") as there:
            yield there
        return
    path = os.path.realpath(path)
    number, beside = tempfile.mkstemp(prefix=f".{os.path.basename(path)[:200]}.", dir=os.path.dirname(path))
    try:
        with open(number, "w", encoding="utf-8") as new:
            yield new
            new.flush()
            os.fsync(number)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
