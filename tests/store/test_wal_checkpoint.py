"""walrusd's readers do not make the write-ahead log long, and it shrinks after other readers."""

from pathlib import Path

import pytest
import trio

from tests.fakes.stores import SqliteDisk, commit, write
from walrus_protocol.events import UserMessage, encode
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log, StreamFilter
from walrusd.store.database import WAL_SIZE_LIMIT_BYTES, open_for_reading
from walrusd.store.wal_checkpoint import MAX_OWN_WAL_BYTES


@pytest.fixture
def disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path)


async def read_forever(log: Log, last_seq: int) -> None:
    """Reads a long session page by page for ever, as attach, export and fork do."""
    while True:
        seq = 0
        while seq < last_seq:
            seq = (await log.events(1, seq, 256))[-1].seq


async def stream_forever(log: Log) -> None:
    while True:
        offset = 0
        while offset < log.last_offset():
            offset = (await log.stream_page(StreamFilter(), offset, log.last_offset(), 256)).upto


async def search_forever(log: Log) -> None:
    while True:
        await log.search("w*")


@pytest.mark.slow
async def test_the_wal_stays_short_while_walrusd_reads_a_large_log(disk: SqliteDisk) -> None:
    log = await disk.open()
    assert await max_wal_bytes_with_readers(log) <= MAX_OWN_WAL_BYTES
    await log.aclose()


async def max_wal_bytes_with_readers(log: Log) -> int:
    """Returns the maximum size of the write-ahead log while 48 MB are written and all readers run."""
    bodies = [encode(UserMessage(content=f"word {seq} " * 100)) for seq in range(1, 10_001)]
    for first in range(0, len(bodies), 500):
        state = SessionState(id=1, agent="a", state="idle", last_seq=first + 500)
        await commit(
            log, write(session=1, session_state=state, bodies=bodies[first : first + 500], first_seq=first + 1)
        )
    max_bytes = 0
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read_forever, log, len(bodies))
        nursery.start_soon(stream_forever, log)
        nursery.start_soon(search_forever, log)
        for seq in range(1, 101):
            # Different texts: identical ones would be stored once.
            body = encode(UserMessage(content=f"{seq:04d} of many. " * 30_000))
            await commit(log, write(session=2, bodies=[body], first_seq=seq))
            max_bytes = max(max_bytes, log.file_sizes().wal_bytes)
        nursery.cancel_scope.cancel()
    return max_bytes


@pytest.mark.slow
async def test_another_program_with_a_snapshot_blocks_no_write_and_the_wal_shrinks_later(
    disk: SqliteDisk,
) -> None:
    log = await disk.open()
    await commit(log, write(session=9, bodies=[b"{}"], first_seq=1))
    reader = open_for_reading(disk.path)
    reader.execute("BEGIN; SELECT count(*) FROM event")
    for seq in range(2, 42):
        await commit(log, write(session=9, bodies=[b"x" * 1_000_000], first_seq=seq))
    assert log.file_sizes().wal_bytes > 40_000_000
    reader.close()
    await commit(log, write(session=9, bodies=[b"{}"], first_seq=42))
    await commit(log, write(session=9, bodies=[b"{}"], first_seq=43))
    assert log.file_sizes().wal_bytes <= WAL_SIZE_LIMIT_BYTES
    assert await max_wal_bytes_with_readers(log) <= MAX_OWN_WAL_BYTES, "as before"
    await log.aclose()
