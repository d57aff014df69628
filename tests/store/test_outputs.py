"""Tool outputs beside the log: each is stored once, read in pieces, and only by sessions that have it."""

from tests.fakes.stores import LogDisk, commit, write
from walrus_protocol.database.schema import DAEMON_SESSION
from walrusd.store.contract import Log
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.output import AddOutput, ReleaseOutput, StoredOutput, read_output

LARGE = bytes(range(256)) * 16 * 1024
"""4 MiB, the largest output that is stored."""


async def test_an_output_is_read_in_pieces(log: Log) -> None:
    await commit(log, write(session=1, mutations=[AddOutput(StoredOutput(ref="r", body=b"0123456789"))]))
    assert await log.read(read_output, 1, "r", 0, 100) == b"0123456789"
    assert await log.read(read_output, 1, "r", 0, 4) == b"0123"
    assert await log.read(read_output, 1, "r", 4, 4) == b"4567"
    assert await log.read(read_output, 1, "r", 8, 4) == b"89"
    assert await log.read(read_output, 1, "r", 10, 4) == b""
    assert await log.read(read_output, 1, "r", 2**53 - 1, 2**53 - 1) == b""
    assert await log.read(read_output, 1, "r", 0, 0) == b""


async def test_a_large_output_comes_back_byte_by_byte(log: Log) -> None:
    await commit(log, write(session=1, mutations=[AddOutput(StoredOutput(ref="r", body=LARGE))]))
    page = 256 * 1024
    pieces = [await log.read(read_output, 1, "r", at, page) for at in range(0, len(LARGE), page)]
    assert b"".join(piece or b"" for piece in pieces) == LARGE


async def test_an_empty_output_can_be_read(log: Log) -> None:
    await commit(log, write(session=1, mutations=[AddOutput(StoredOutput(ref="r", body=b""))]))
    assert await log.read(read_output, 1, "r", 0, 9) == b""


async def test_only_a_session_that_owns_an_output_may_read_it(log: Log) -> None:
    await commit(log, write(session=1, mutations=[AddOutput(StoredOutput(ref="r", body=b"mine"))]))
    assert await log.read(read_output, 2, "r", 0, 9) is None
    assert await log.read(read_output, 1, "other", 0, 9) is None
    await commit(log, write(session=2, mutations=[AddOutput(StoredOutput(ref="r", body=b"mine"))]))
    assert await log.read(read_output, 2, "r", 0, 9) == b"mine"


async def test_a_stored_output_is_not_written_again(log: Log) -> None:
    """The ref is a hash of the bytes; this test uses different bytes to show that the first ones stay."""
    again = write(session=1, mutations=[AddOutput(StoredOutput(ref="r", body=b"twice"))], bodies=[b"2"], first_seq=2)
    await commit(
        log,
        write(session=1, mutations=[AddOutput(StoredOutput(ref="r", body=b"once"))], bodies=[b"1"], first_seq=1),
        again,
    )
    assert await log.read(read_output, 1, "r", 0, 9) == b"once"
    assert await log.events(1, 0, 9) == [EventRow(1, 1, b"1"), EventRow(2, 2, b"2")]


async def test_outputs_survive_a_restart(disk: LogDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=1, mutations=[AddOutput(StoredOutput(ref="r", body=b"kept"))]))
    await log.aclose()
    log = await disk.open()
    assert await log.read(read_output, 1, "r", 1, 2) == b"ep"
    await log.aclose()


async def test_an_output_stored_again_right_after_its_release_is_kept(log: Log) -> None:
    output = AddOutput(StoredOutput(ref="r", body=b"kept"))
    await commit(log, write(session=1, mutations=[output]))
    release = write(session=DAEMON_SESSION, mutations=[ReleaseOutput(1, "r")])
    await commit(log, release, write(session=1, mutations=[output]))
    assert await log.read(read_output, 1, "r", 0, 99) == b"kept"
    await log.sweep()
    assert await log.read(read_output, 1, "r", 0, 99) == b"kept"
