"""Documents that a connection is uploading; they are spooled, and dropped when the connection ends."""

import errno
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import trio

from walrus_protocol.problems import Problem
from walrus_protocol.wire import MAX_DOCUMENT
from walrusd.store.errors import StorageFailed, StorageFull

MAX_UPLOADS = 4
"""Maximum concurrent uploads of one connection: each may take a quarter of a GiB of the disk."""
MAX_PENDING_PARTS = 4
"""Maximum parts of one connection that are not written yet; each holds a frame in memory."""
MAX_MEMORY_BYTES = 256 * 1024
"""Maximum bytes of an upload that stay in memory; a larger one is written to a file."""


class Uploads:
    """The uploads of one connection, by the client's names.

    Their files have no name in the file system, so only this process can read them.
    """

    def __init__(self, folder: str) -> None:
        """`folder` is for large uploads; it should be on a disk, since a system's /tmp may be in memory."""
        self._folder = folder
        self._uploads: dict[str, IO[bytes]] = {}
        self._pending_parts = Counter[str]()
        """The number of received and not yet written parts of each upload."""
        self._failed: set[str] = set()

    def close(self) -> None:
        """Drops all uploads, when the connection ends."""
        for name in [*self._uploads]:
            self._discard(name)

    @contextmanager
    def track_part(self, name: str) -> Iterator[None]:
        """Counts a part as pending within its block. Raises Problem invalid_request if too many are pending.

        If a part is refused, cancelled or fails, the whole upload is dropped, with the parts that are already pending:
        a document with a gap in it might still look valid.
        """
        if self._pending_parts.total() >= MAX_PENDING_PARTS:
            self._fail(name)
            raise Problem(
                "invalid_request",
                f"{MAX_PENDING_PARTS} parts of uploads are waiting on this connection",
                "The upload was dropped. Start it again, and send the next part when an earlier one is answered.",
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
        """Appends a part; returns the bytes of the upload so far.

        Raises Problem (invalid_params, invalid_request) and StorageFailed.
        """
        if name in self._failed:
            raise Problem(
                "invalid_request", "an earlier part of this upload failed", "The upload was dropped. Start it again."
            )
        if name not in self._uploads and len(self._uploads) >= MAX_UPLOADS:
            raise Problem(
                "invalid_request",
                f"{MAX_UPLOADS} uploads of this connection are in progress",
                "Finish one of them first. All uploads end with their connection.",
            )
        if (file := self._uploads.get(name)) is None:
            file = self._uploads[name] = tempfile.SpooledTemporaryFile(MAX_MEMORY_BYTES, dir=self._folder)  # noqa: SIM115 - closed by `take`'s caller, or here
        return await trio.to_thread.run_sync(_write, file, data)

    def take(self, name: str) -> IO[bytes]:
        """Removes and returns a complete upload; the caller closes it."""
        return self._uploads.pop(name)

    def _fail(self, name: str) -> None:
        """Drops an upload once no part of it is pending; until then further parts are refused."""
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
            f"data: the document is larger than {MAX_DOCUMENT:,} bytes",
            "Nothing was imported. Fork the session at an earlier point and export the fork.",
        )
    try:
        file.write(encoded)
    except OSError as error:
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
        raise kind(f"the upload cannot be stored: {error.strerror}") from error
    return file.tell()
