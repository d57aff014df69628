"""Documents on their way in: what one connection has sent of them so far, spooled, and gone with it."""

import errno
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Self

import trio

from walrus_protocol.problems import Problem
from walrus_protocol.wire import MAX_DOCUMENT
from walrusd.store.contract import StorageFailed, StorageFull

MAX_UPLOADS = 4
"""Of one connection at a time: each may take a quarter of a GiB of the disk."""
MAX_PENDING_PARTS = 4
"""That have come and wait to be put down: a frame each."""
MAX_MEMORY_BYTES = 256 * 1024
"""Bytes of an upload that need no file."""


class Uploads:
    """By the names that the client gives them. The files have no name, and nobody but this process can read them."""

    def __init__(self, folder: str) -> None:
        """`folder` is where those that are large are put: a disk, where a system's own temporary one may be memory."""
        self._folder = folder
        self._uploads: dict[str, IO[bytes]] = {}
        self._pending_parts = Counter[str]()
        """Parts of each that have come and are not put down."""
        self._failed: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in [*self._uploads]:
            self._discard(name)

    @contextmanager
    def track_part(self, name: str) -> Iterator[None]:
        """Within: one has come, and is not put down yet. Raises Problem invalid_request where too many have.

        A document whose part is refused, cancelled or fails is given up, and with it the parts that wait already: with
        a hole in it, it may still look like one.
        """
        if self._pending_parts.total() >= MAX_PENDING_PARTS:
            self._fail(name)
            raise Problem(
                "invalid_request",
                f"{MAX_PENDING_PARTS} parts of documents wait on this connection",
                "The upload was given up. Begin it again, and send the next part when one of them is answered.",
            )
        self._pending_parts[name] += 1
        try:
            yield
        except BaseException:
            self._failed.add(name)
            raise
        finally:
            self._pending_parts[name] -= 1
            if not self._pending_parts[name]:
                del self._pending_parts[name]
            if name in self._failed:
                self._fail(name)

    async def add(self, name: str, data: str) -> int:
        """The bytes of the upload by now. Raises Problem (invalid_params, invalid_request), and StorageFailed."""
        if name in self._failed:
            raise Problem(
                "invalid_request", "a part before this one was not taken", "The upload was given up. Begin it again."
            )
        if name not in self._uploads and len(self._uploads) >= MAX_UPLOADS:
            raise Problem(
                "invalid_request",
                f"{MAX_UPLOADS} uploads of this connection are under way",
                "Finish one of them first; they end with their connection.",
            )
        if (file := self._uploads.get(name)) is None:
            file = self._uploads[name] = tempfile.SpooledTemporaryFile(MAX_MEMORY_BYTES, dir=self._folder)  # noqa: SIM115 - closed by who takes it, or here
        return await trio.to_thread.run_sync(_write, file, data)

    def take(self, name: str) -> IO[bytes]:
        """An upload that is whole: whoever takes it closes it."""
        return self._uploads.pop(name)

    def _fail(self, name: str) -> None:
        """Take no more of it while parts of it wait, and forget it then: what comes later begins anew."""
        self._failed.add(name)
        if name not in self._pending_parts:
            self._failed.discard(name)
            self._discard(name)

    def _discard(self, name: str) -> None:
        if file := self._uploads.pop(name, None):
            file.close()


def _write(file: IO[bytes], data: str) -> int:
    encoded = data.encode()
    if file.tell() + len(encoded) > MAX_DOCUMENT:
        raise Problem(
            "invalid_params",
            f"data: the document is over {MAX_DOCUMENT:,} bytes",
            "Nothing of it was taken; fork the session at an earlier point and export that.",
        )
    try:
        file.write(encoded)
    except OSError as error:
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
        raise kind(f"the upload cannot be kept: {error.strerror}") from error
    return file.tell()
