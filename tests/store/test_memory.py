"""The in-memory store's features for tests: failure on demand, and a restart without a close."""

from tests.fakes.memory_log import MemoryLog
from tests.fakes.stores import commit, submit_all, write
from walrusd.store.errors import StorageFailed, StorageFull
from walrusd.store.tables.event import EventRow


async def test_while_fail_with_is_set_writes_fail_and_reads_work() -> None:
    log = MemoryLog()
    await commit(log, write(session=1, bodies=[b"1"], first_seq=1))
    log.fail_with = StorageFull("no space left")
    failed = await submit_all(log, write(session=1, bodies=[b"2"], first_seq=2))
    assert [type(failure) for failure in failed] == [StorageFull]
    assert await log.events(1, 0, 9) == [EventRow(1, 1, b"1")]
    log.fail_with = None
    assert await commit(log, write(session=1, bodies=[b"3"], first_seq=2)) == [2]


async def test_after_a_restart_without_a_close_only_committed_writes_exist() -> None:
    killed = MemoryLog()
    await commit(killed, write(session=1, bodies=[b"1"], first_seq=1))
    failures: list[object] = []
    late = write(session=1, bodies=[b"2"], first_seq=2)
    late.failed = failures.append
    killed.submit(late)
    log = MemoryLog(killed)
    assert await commit(log, write(session=2, bodies=[b"a"], first_seq=1)) == [2]
    assert [type(failure) for failure in failures] == [StorageFailed]
    assert await log.events(1, 0, 9) == [EventRow(1, 1, b"1")]
