"""A write that the disk took but could not sync fails, and does not exist at the next start either."""

import errno
import os
from pathlib import Path

import pytest

from tests.fakes.fault_injecting_vfs import fault_injecting_vfs
from tests.fakes.stores import SqliteDisk, commit, submit_all, write
from walrusd.store.errors import StorageFailed, StorageFull
from walrusd.store.tables.event import EventRow


@pytest.mark.parametrize("together", [1, 3])
async def test_a_write_whose_sync_failed_is_not_found_at_the_next_start(tmp_path: Path, together: int) -> None:
    broken = False

    def before(step: str, _name: str) -> None:
        if broken and step == "sync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = SqliteDisk(tmp_path, durability="full")
    with fault_injecting_vfs(before):
        log = await disk.open()
        await commit(log, write(session=1, bodies=[b"1"], first_seq=1))
        broken = True
        failures = await submit_all(
            log, *(write(session=s, bodies=[b"2"], first_seq=2) for s in range(1, together + 1))
        )
        assert [type(failure) for failure in failures] == [StorageFailed] * together
        await log.aclose()
    log = await disk.open()
    assert await log.events(1, 0, 9) == [EventRow(1, 1, b"1")]
    assert [await log.events(session, 0, 9) for session in (2, 3)] == [[], []]
    assert await commit(log, write(session=1, bodies=[b"next"], first_seq=2)) == [2]
    await log.aclose()


async def test_a_failed_write_is_reported_until_a_write_succeeds(tmp_path: Path) -> None:
    full = False

    def before(step: str, _name: str) -> None:
        if full and step == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk = SqliteDisk(tmp_path)
    with fault_injecting_vfs(before):
        log = await disk.open()
        full = True
        [failure] = await submit_all(log, write(session=1, bodies=[b"1"], first_seq=1))
        warning = f"The last write to the log failed: {failure}. {StorageFull('').hint}"
        assert (type(failure), log.write_warning) == (StorageFull, warning)
        await log.sweep()
        assert log.write_warning == warning, "the sweep had nothing to write"
        full = False
        await commit(log, write(session=1, bodies=[b"1"], first_seq=1))
        assert log.write_warning == ""
        await log.aclose()
