"""Documents on their way in: what one connection has sent of them so far, spooled, and gone with it."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Self

import trio

from walrus_protocol.portable import MOST_DOCUMENT
from walrus_protocol.problems import Problem
from walrusd.store.log import StorageFailed, StorageFull

MOST_UPLOADS = 4
"""Of one connection at a time: each may take a quarter of a GiB of the disk."""
MOST_PARTS = 4
"""That have come and wait to be put down: a frame each."""
IN_MEMORY = 256 * 1024
"""Bytes of an upload that need no file."""


class Uploads:
    """By the names that the client gives them. The files have no name, and nobody but this process can read them."""

    def __init__(self, folder: str) -> None:
        """`folder` is where those that are large are put: a disk, where a system's own temporary one may be memory."""
        self._folder = folder
        self._uploads: dict[str, IO[bytes]] = {}
        self._parts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in [*self._uploads]:
            self._give_up(name)

    @contextmanager
    def part(self) -> Iterator[None]:
        """Within: one has come, and is not put down yet. Raises Problem invalid_request where too many have."""
        if self._parts >= MOST_PARTS:
            raise Problem(
                "invalid_request",
                f"{MOST_PARTS} parts of documents wait on this connection",
                "Send the next part when one of them is answered.",
            )
        self._parts += 1
        try:
            yield
        finally:
            self._parts -= 1

    async def add(self, name: str, data: str) -> int:
        """The bytes of the upload by now. One that cannot go on is given up.

        Raises Problem (invalid_params, invalid_request), StorageFull and StorageFailed.
        """
        if name not in self._uploads and len(self._uploads) >= MOST_UPLOADS:
            raise Problem(
                "invalid_request",
                f"{MOST_UPLOADS} uploads of this connection are under way",
                "Finish one of them first; they end with their connection.",
            )
        if (file := self._uploads.get(name)) is None:
            file = self._uploads[name] = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=self._folder)  # noqa: SIM115 - closed by who takes it, or here
        try:
            return await trio.to_thread.run_sync(_write, file, data)
        except BaseException:
            self._give_up(name)
            raise

    def take(self, name: str) -> IO[bytes]:
        """An upload that is whole: whoever takes it closes it."""
        return self._uploads.pop(name)

    def _give_up(self, name: str) -> None:
        self._uploads.pop(name).close()


def _write(file: IO[bytes], data: str) -> int:
    encoded = data.encode()
    if file.tell() + len(encoded) > MOST_DOCUMENT:
        raise Problem(
            "invalid_params",
            f"data: the document is over {MOST_DOCUMENT:,} bytes",
            "Nothing of it was taken; fork the session at an earlier point and export that.",
        )
    try:
        file.write(encoded)
    except OSError as error:
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
        raise kind(f"the upload cannot be kept: {error.strerror}") from error
    return file.tell()
