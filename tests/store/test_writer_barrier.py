"""A barrier, the store's health check, completes after all earlier writes and writes nothing."""

import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes.fault_injecting_vfs import fault_injecting_vfs
from tests.fakes.memory_log import MemoryLog
from tests.fakes.stores import LogDisk, SqliteDisk, submit_all, write
from walrusd.store.contract import Log
from walrusd.store.errors import StorageFailed, StorageFull


async def test_a_barrier_completes_after_all_earlier_writes(log: Log) -> None:
    offsets: list[int] = []
    for seq in range(1, 201):
        one = write(session=1, bodies=[b"{}"], first_seq=seq)
        one.committed = offsets.append
        log.submit(one)
    await log.wait_for_writes()
    assert offsets == list(range(1, 201))


async def test_many_barriers_among_writes_all_complete(log: Log) -> None:
    async with trio.open_nursery() as nursery:
        for seq in range(1, 51):
            nursery.start_soon(log.wait_for_writes)
            nursery.start_soon(submit_all, log, write(session=seq, bodies=[b"{}"], first_seq=1))
    assert sorted([row.offset for session in range(1, 51) for row in await log.events(session, 0, 9)]) == [
        *range(1, 51)
    ]


async def test_a_closed_log_refuses_a_barrier(disk: LogDisk) -> None:
    log = await disk.open()
    await log.aclose()
    with pytest.raises(StorageFailed):
        await log.wait_for_writes()


async def test_a_barrier_under_way_completes_when_the_log_closes(log: Log) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.wait_for_writes)
        await trio.testing.wait_all_tasks_blocked()
        await log.aclose()


async def test_a_store_that_fails_completes_barriers_and_fails_its_writes() -> None:
    log = MemoryLog()
    log.fail_with = StorageFull("no space left")
    await log.wait_for_writes()
    assert [type(failure) for failure in await submit_all(log, write(session=1))] == [StorageFull]


async def test_on_a_full_disk_a_barrier_completes_among_failing_writes(tmp_path: Path) -> None:
    full = threading.Event()

    def before(step: str, _name: str) -> None:
        if full.is_set() and step == "write":
            raise OSError(28, "no space left")

    with fault_injecting_vfs(before):
        log = await SqliteDisk(tmp_path).open()
        full.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.wait_for_writes)
            failed = await submit_all(log, *(write(session=s, bodies=[b"{}"], first_seq=1) for s in (1, 2)))
            nursery.start_soon(log.wait_for_writes)
        assert [type(failure) for failure in failed] == [StorageFull, StorageFull]
        full.clear()
        await log.aclose()


async def test_while_the_disk_hangs_no_barrier_completes(tmp_path: Path) -> None:
    hangs, hung = threading.Event(), threading.Event()
    resume = threading.Event()

    def before(step: str, _name: str) -> None:
        if hangs.is_set():
            hung.set()
            resume.wait()

    with fault_injecting_vfs(before):
        log = await SqliteDisk(tmp_path).open()
        hangs.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit_all, log, write(session=1, bodies=[b"{}"], first_seq=1))
            await trio.to_thread.run_sync(hung.wait)
            completed = trio.Event()

            async def wait_for_barrier() -> None:
                await log.wait_for_writes()
                completed.set()

            nursery.start_soon(wait_for_barrier)
            await trio.testing.wait_all_tasks_blocked()
            assert not completed.is_set()
            resume.set()
            await completed.wait()
        await log.aclose()


async def test_a_barrier_writes_nothing(tmp_path: Path) -> None:
    steps: list[str] = []
    with fault_injecting_vfs(lambda step, name: steps.append(step)):
        log = await SqliteDisk(tmp_path).open()
        await submit_all(log, write(session=1, bodies=[b"{}"], first_seq=1))
        await log.wait_for_writes()
        steps.clear()
        for _ in range(3):
            await log.wait_for_writes()
        assert steps == []
        await log.aclose()
