"""Tests of the SQLite store only: file modes, unusable files, and a disk that fills up."""

import errno
import os
import sqlite3
import stat
import sys
import tempfile
from pathlib import Path

import apsw
import pytest
import trio

from tests.fakes.fault_injecting_vfs import fault_injecting_vfs
from tests.fakes.stores import SqliteDisk, commit, submit_all, write
from tests.store import open_as_nobody
from walrusd.session.recovery import Draft
from walrusd.store.contract import FileSizes
from walrusd.store.database import WAL_SIZE_LIMIT_BYTES, WRITER_CACHE_KIB, open_for_reading
from walrusd.store.errors import DatabaseUnusable, StorageFailed, StorageFull
from walrusd.store.migrations import MIGRATIONS
from walrusd.store.tables.draft import SaveDraft, read_draft
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.output import AddOutput, StoredOutput
from walrusd.store.tables.schedule import PutSchedule, ScheduleRow, read_schedules
from walrusd.store.wal_checkpoint import CHECKPOINT_PAGES
from walrusd.store.writer_thread import WriterThread


@pytest.fixture
def disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path)


async def open_failure(disk: SqliteDisk) -> DatabaseUnusable:
    with pytest.raises(DatabaseUnusable) as failure:
        await disk.open()
    assert disk.path in str(failure.value)
    assert failure.value.hint
    return failure.value


async def test_other_users_cannot_read_the_database_files(disk: SqliteDisk) -> None:
    before = os.umask(0o022)
    try:
        log = await disk.open()
        await commit(log, write(session=1, bodies=[b"{}"], first_seq=1))
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((disk.folder / name).stat().st_mode) for name in os.listdir(disk.folder)}
    assert modes == {"walrus.db": 0o600, "walrus.db-wal": 0o600, "walrus.db-shm": 0o600}
    await log.aclose()


async def test_a_database_that_others_could_read_is_made_private(disk: SqliteDisk) -> None:
    await (await disk.open()).aclose()
    os.chmod(disk.path, 0o644)
    await (await disk.open()).aclose()
    assert stat.S_IMODE(os.stat(disk.path).st_mode) == 0o600


async def test_closing_leaves_one_file_with_everything_in_it(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=1, bodies=[b"{}"], first_seq=1))
    await log.aclose()
    assert os.listdir(disk.folder) == ["walrus.db"]
    assert [row.body for row in await read_once(disk)] == [b"{}"]


async def read_once(disk: SqliteDisk) -> list[EventRow]:
    log = await disk.open()
    rows = await log.events(1, 0, 100)
    await log.aclose()
    return rows


async def test_opening_again_changes_nothing(disk: SqliteDisk) -> None:
    await (await disk.open()).aclose()
    once = await trio.Path(disk.path).read_bytes()
    await (await disk.open()).aclose()
    assert await trio.Path(disk.path).read_bytes() == once


async def test_an_empty_file_becomes_a_database(disk: SqliteDisk) -> None:
    await trio.Path(disk.path).touch()
    assert await read_once(disk) == []


async def test_a_newer_database_is_refused_and_untouched(disk: SqliteDisk) -> None:
    await (await disk.open()).aclose()
    db = apsw.Connection(disk.path)
    db.pragma("user_version", len(MIGRATIONS) + 1)
    db.close()
    newer = await trio.Path(disk.path).read_bytes()
    assert "newer walrusd" in str(await open_failure(disk))
    assert await trio.Path(disk.path).read_bytes() == newer


@pytest.mark.parametrize("garbage", [b"hello", b"SQLite format 3\0" + b"\xff" * 5000, os.urandom(8192)])
async def test_a_file_that_is_not_a_database_is_refused_and_untouched(disk: SqliteDisk, garbage: bytes) -> None:
    await trio.Path(disk.path).write_bytes(garbage)
    assert "is not a walrusd database" in str(await open_failure(disk))
    assert await trio.Path(disk.path).read_bytes() == garbage


async def test_the_database_of_another_program_is_refused_and_untouched(disk: SqliteDisk) -> None:
    with sqlite3.connect(disk.path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    foreign = await trio.Path(disk.path).read_bytes()
    assert "another program" in str(await open_failure(disk))
    assert await trio.Path(disk.path).read_bytes() == foreign


async def test_a_damaged_database_is_refused(disk: SqliteDisk) -> None:
    await (await disk.open()).aclose()
    os.truncate(disk.path, 4096)
    assert "damaged" in str(await open_failure(disk))


async def test_a_row_that_cannot_be_decoded_is_reported_as_damage(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=0, mutations=[PutSchedule(ScheduleRow(name="heartbeat:quiet", next_slot=1.0))]))
    await log.aclose()
    db = apsw.Connection(disk.path)
    db.execute("UPDATE schedule SET body = ?", (b"\0" * 40,))
    db.close()
    log = await disk.open()
    with pytest.raises(DatabaseUnusable, match="is damaged") as failure:
        await log.read(read_schedules)
    assert ".recover" in failure.value.hint
    await log.aclose()


async def test_a_missing_folder_is_reported(disk: SqliteDisk) -> None:
    assert os.strerror(errno.ENOENT) in str(await open_failure(SqliteDisk(disk.folder / "nowhere")))


async def test_a_folder_with_the_name_of_the_database_is_refused(disk: SqliteDisk) -> None:
    os.mkdir(disk.path)
    assert os.strerror(errno.EISDIR) in str(await open_failure(disk))


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some disk space"),
        (errno.EDQUOT, "Free some disk space"),
        (errno.EROFS, "Mount it for writing"),
        (errno.EIO, "dmesg"),
        (errno.EFBIG, "Check the disk"),
    ],
)
@pytest.mark.parametrize("fails", ["write", "sync"])
async def test_a_disk_that_cannot_be_written_is_reported_with_its_own_error(
    disk: SqliteDisk, number: int, advice: str, fails: str
) -> None:
    def before(step: str, _name: str) -> None:
        if step == fails:
            raise OSError(number, os.strerror(number))

    with fault_injecting_vfs(before):
        failure = await open_failure(disk)
    assert os.strerror(number) in str(failure)
    assert advice in failure.hint
    assert await read_once(disk) == []


@pytest.mark.parametrize("exists", [False, True])
async def test_a_read_only_folder_is_refused(exists: bool) -> None:
    with tempfile.TemporaryDirectory() as name:  # a process without root cannot enter tmp_path
        disk = SqliteDisk(Path(name))
        if exists:
            await (await disk.open()).aclose()
            os.chmod(disk.path, 0o666)
        os.chmod(name, 0o555)
        child = await trio.run_process(
            [sys.executable, open_as_nobody.__file__, disk.path],
            capture_stdout=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        os.chmod(name, 0o700)
    message = child.stdout.decode()
    assert disk.path in message
    assert "let this user write" in message.lower()


async def test_a_full_disk_fails_writes_until_there_is_space_again(disk: SqliteDisk) -> None:
    full = False

    def before(step: str, name: str) -> None:
        if full and step == "write":
            raise apsw.FullError("no space left")

    with fault_injecting_vfs(before):
        log = await disk.open()
        await commit(log, write(session=1, bodies=[b"1"], first_seq=1))
        full = True
        failures = await submit_all(log, *(write(session=s, bodies=[b"2"], first_seq=2) for s in (1, 2, 3)))
        assert [type(failure) for failure in failures] == [StorageFull] * 3
        assert [row.body for row in await log.events(1, 0, 9)] == [b"1"]
        full = False
        assert await commit(log, write(session=1, bodies=[b"3"], first_seq=2)) == [2]
        await log.aclose()
    assert await read_once(disk) == [EventRow(1, 1, b"1"), EventRow(2, 2, b"3")]


async def test_a_disk_that_is_found_full_only_by_the_sync_is_reported_as_full(disk: SqliteDisk) -> None:
    full = False

    def before(step: str, _name: str) -> None:
        if full and step == "sync":
            raise OSError(errno.ENOSPC, "no space left")

    disk.durability = "full"
    with fault_injecting_vfs(before):
        log = await disk.open()
        full = True
        (failure,) = await submit_all(log, write(session=1, bodies=[b"1"], first_seq=1))
        full = False
        await log.aclose()
    assert isinstance(failure, StorageFull)
    assert os.strerror(errno.ENOSPC) in str(failure)


async def test_a_full_disk_at_any_step_of_a_batch_loses_no_acknowledged_write(disk: SqliteDisk) -> None:
    steps = full_from = 0

    def before(step: str, name: str) -> None:
        nonlocal steps
        steps += 1
        if full_from and steps >= full_from:
            raise apsw.FullError("no space left")

    written: list[bytes] = []
    with fault_injecting_vfs(before):
        log = await disk.open()
        for number in range(1, 40):
            steps, full_from = 0, number
            body = b"%d" % number
            (outcome,) = await submit_all(log, write(session=1, bodies=[body] * 3, first_seq=len(written) + 1))
            if isinstance(outcome, int):
                written += [body] * 3
            else:
                assert isinstance(outcome, StorageFailed)
            full_from = 0
            assert [row.body for row in await log.events(1, 0, 1000)] == written
        await log.aclose()
    assert 0 < len(written) < 3 * 39
    assert [row.body for row in await read_once(disk)] == written[:100]


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_only_full_durability_syncs_before_it_acknowledges(disk: SqliteDisk, durability: str) -> None:
    unsynced = False

    def before(step: str, name: str) -> None:
        nonlocal unsynced
        if name.endswith("-wal"):
            unsynced = step == "write"

    disk.durability = "full" if durability == "full" else "normal"
    with fault_injecting_vfs(before):
        log = await disk.open()
        for seq in range(1, 10):
            await commit(log, write(session=1, bodies=[b"{}"], first_seq=seq))
            assert unsynced == (durability == "normal")
        await log.aclose()


async def test_an_invalid_write_fails_alone(disk: SqliteDisk) -> None:
    """A bug of one caller must not leave other callers waiting."""
    log = await disk.open()
    not_bytes: list[bytes] = [object()]  # type: ignore[list-item] # the bug
    first, invalid, last = await submit_all(
        log,
        write(session=1, bodies=[b"1"], first_seq=1),
        write(session=2, bodies=not_bytes, first_seq=1),
        write(session=3, bodies=[b"3"], first_seq=1),
    )
    assert (first, last) == (1, 2)
    assert isinstance(invalid, StorageFailed)
    await log.aclose()


async def test_the_gil_is_yielded_only_while_a_request_is_pending(disk: SqliteDisk) -> None:
    log = await disk.open()
    assert isinstance(log._writer, WriterThread)
    await submit_all(log, *(write(session=1, bodies=[b"{}"], first_seq=1) for _ in range(3)))
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(log.events, 1, 0, 9)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert log._writer._gil_yield.pending == 0
    await log.aclose()
    await submit_all(log, write(session=1))
    assert log._writer._gil_yield.pending == 0


async def test_the_write_ahead_log_stays_short(disk: SqliteDisk) -> None:
    log = await disk.open()
    for seq in range(1, 61):
        await commit(log, write(session=1, bodies=[b"x" * 400_000], first_seq=seq))
    assert (await trio.Path(disk.path + "-wal").stat()).st_size < 2 * CHECKPOINT_PAGES * 4096
    await log.aclose()


async def test_the_write_ahead_log_is_short_again_after_a_long_read(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=1, bodies=[b"{}"], first_seq=1))
    reader = open_for_reading(disk.path)
    reader.execute("BEGIN; SELECT count(*) FROM event")
    for seq in range(2, 62):
        await commit(log, write(session=1, bodies=[b"x" * 400_000], first_seq=seq))
    assert log.file_sizes().wal_bytes > 60 * 400_000
    reader.close()
    for seq in range(62, 65):
        await commit(log, write(session=1, bodies=[b"{}"], first_seq=seq))
    assert log.file_sizes().wal_bytes <= WAL_SIZE_LIMIT_BYTES
    await log.aclose()


async def test_sizes_are_those_of_the_files(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=1, bodies=[b"x" * 100_000], first_seq=1))
    sizes = log.file_sizes()
    assert sizes == FileSizes(os.stat(disk.path).st_size, os.stat(disk.path + "-wal").st_size)
    assert sizes.wal_bytes > 100_000
    await log.aclose()
    assert log.file_sizes().wal_bytes == 0


async def test_large_outputs_leave_no_more_in_memory_than_the_page_cache(disk: SqliteDisk) -> None:
    log = await disk.open()
    before = apsw.memory_used()
    await commit(
        log,
        *(
            write(session=s, mutations=[AddOutput(StoredOutput(ref=f"{s}", body=b"%d" % s * 2**22))])
            for s in range(1, 5)
        ),
    )
    assert apsw.memory_used() - before < (WRITER_CACHE_KIB + 1024) * 1024
    await log.aclose()


async def test_a_draft_written_by_another_version_is_ignored(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=1, mutations=[SaveDraft(Draft(turn=1, round=1, text="so far"))]))
    await log.aclose()
    db = apsw.Connection(disk.path)
    db.execute("UPDATE draft SET body = ?", (b'{"words":"of another time"}',))
    db.close()
    assert await (await disk.open()).read(read_draft, 1) is None
