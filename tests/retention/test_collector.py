"""Tests of what the collector deletes, and in which order, through a runtime and on both stores."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.fakes.clock import FakeWallClock
from tests.fakes.model import FakeModel
from tests.fakes.stores import LogDisk, commit, disk, write
from walrus_config.schema import StorageSettings
from walrus_protocol.content import ToolOutput
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import SessionsExpired, decode
from walrus_protocol.methods.daemon import GcResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, OnChunk, Reply
from walrusd.retention.clock_jump import DAY_S
from walrusd.retention.collector import RetentionCollector
from walrusd.retention.planner import BATCH_SIZE
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.store.contract import Log
from walrusd.store.expiry import ExpireSession
from walrusd.store.tables.output import AddOutput, StoredOutput, read_output
from walrusd.store.tables.session import SessionFilter

__all__ = ["disk"]

NOON = 1_793_620_800.0
MB = 1_000_000


@dataclass
class RetentionHarness:
    """A collector with a runtime, a clock and a store, and the events that it has reported."""

    runtime: Runtime
    clock: FakeWallClock
    collector: RetentionCollector
    log: Log
    storage: StorageSettings = field(default_factory=StorageSettings)
    expired_events: list[SessionsExpired] = field(default_factory=list)

    async def create_closed(self, text: str = "Hello", fork_of: int | None = None) -> int:
        """Creates a session or a fork with one turn, and closes it."""
        session = await self.create_open(text, fork_of)
        await self.runtime.close_session(session)
        return session

    async def create_open(self, text: str = "Hello", fork_of: int | None = None) -> int:
        session = (
            (await self.runtime.fork_rewind.fork(fork_of)).session
            if fork_of
            else await self.runtime.create_session("walrus")
        )
        await self.runtime.send_to(session, text)
        return session

    async def store_output(self, session: int, ref: str, megabytes: int) -> None:
        output = StoredOutput(ref=ref, body=ref.encode() * MB * megabytes)
        await commit(self.log, write(session=session, mutations=[AddOutput(output)]))

    async def stored_refs(self, *sessions: int) -> list[str]:
        """Returns the refs, of one letter each, of the outputs that these sessions have."""
        found = [
            (ref, await self.log.read(read_output, session, ref, 0, 1)) for session in sessions for ref in "abcdef"
        ]
        return [ref for ref, first_byte in found if first_byte is not None]

    async def gc(self) -> GcResult:
        return await self.collector.collect(dry_run=False)

    async def texts(self, session: int) -> list[str]:
        messages = await self.runtime.fork_rewind.history(session)
        return [str(message.content) for message in messages if not isinstance(message, ToolOutput)]

    async def session_ids(self) -> list[int]:
        rows = await self.log.list_sessions(SessionFilter(include_closed=True, limit=100))
        return [row.id for row, _ in reversed(rows)]


async def reply_at_once(_: ModelRequest, __: OnChunk) -> Reply:
    """Replies without streaming: a streamed draft is held for a quarter of a second until it is saved."""
    await trio.lowlevel.checkpoint()
    return Reply(content="Hi!", cost_usd=0.0)


@pytest.fixture
async def log(disk: LogDisk) -> AsyncIterator[Log]:
    log = await disk.open()
    yield log
    await log.aclose()


@pytest.fixture
async def harness(log: Log) -> AsyncIterator[RetentionHarness]:
    clock = FakeWallClock(NOON)
    async with Runtime(FakeModel(reply_at_once), log=log, clock=clock.now) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        recorder = await DaemonRecorder.open(log)
        expired_events: list[SessionsExpired] = []
        # The settings are read at each run; by then the harness exists.
        collector = RetentionCollector(
            log,
            runtime.session_cache,
            recorder,
            storage_settings=lambda: new_harness.storage,
            clock=clock.now,
            on_event=expired_events.append,
        )
        new_harness = RetentionHarness(runtime, clock, collector, log, expired_events=expired_events)
        yield new_harness


async def problem_kind(request: Awaitable[object]) -> str:
    with pytest.raises(Problem) as problem:
        await request
    return problem.value.kind


async def test_without_retention_settings_nothing_is_deleted(harness: RetentionHarness) -> None:
    sessions = [await harness.create_closed(), await harness.create_open()]
    harness.clock.set(NOON + 10_000 * DAY_S)
    result = await harness.gc()
    assert (result.sessions, result.outputs, result.events) == (0, 0, 0)
    assert await harness.session_ids() == sessions


async def test_a_session_is_deleted_retain_closed_days_after_its_close(harness: RetentionHarness) -> None:
    old, open_ = await harness.create_closed(), await harness.create_open()
    harness.clock.set(NOON + DAY_S)
    newer = await harness.create_closed()
    harness.storage = StorageSettings(retain_closed_days=1.5)
    harness.clock.set(NOON + 2 * DAY_S)
    result = await harness.gc()
    assert (result.sessions, result.events) == (1, 5)
    assert await harness.session_ids() == [open_, newer]
    assert [(event.sessions, event.reason) for event in harness.expired_events] == [((old,), "gc")]
    assert [decode(row.body) for row in await harness.log.events(DAEMON_SESSION, 0, 9)] == harness.expired_events


async def test_every_request_for_a_deleted_session_is_refused(harness: RetentionHarness) -> None:
    session = await harness.create_closed("Where is the fish?")
    await harness.runtime.fork_rewind.history(session)
    harness.storage = StorageSettings(retain_closed_days=1)
    harness.clock.set(NOON + 2 * DAY_S)
    await harness.gc()
    runtime = harness.runtime
    requests = [
        runtime.session(session),
        runtime.fork_rewind.history(session),
        runtime.fork_rewind.fork(session),
        runtime.send(session, MessageRequest(content="Hello?")),
        runtime.close_session(session),
    ]
    assert {await problem_kind(one) for one in requests} == {"session_not_found"}
    assert await harness.log.search("fish") == []
    assert runtime.session_cache.find_live(session) is None


async def test_forks_of_a_deleted_session_keep_their_history(harness: RetentionHarness) -> None:
    first = await harness.create_closed("one")
    second = await harness.create_closed("two", fork_of=first)
    third = await harness.create_open("three", fork_of=second)
    harness.storage = StorageSettings(retain_closed_days=1)
    harness.clock.set(NOON + 2 * DAY_S)
    await harness.gc()
    assert await harness.session_ids() == [third]
    assert await harness.texts(third) == ["one", "Hi!", "two", "Hi!", "three", "Hi!"]
    await harness.runtime.send_to(third, "four")
    assert (await harness.texts(third))[-2:] == ["four", "Hi!"]
    await harness.runtime.close_session(third)
    harness.clock.set(NOON + 4 * DAY_S)
    await harness.gc()
    assert [await harness.log.events(session, 0, 9) for session in (first, second, third)] == [[], [], []]


async def test_a_session_being_read_is_not_deleted_until_the_reader_is_done(harness: RetentionHarness) -> None:
    session = await harness.create_closed()
    harness.storage = StorageSettings(retain_closed_days=1)
    harness.clock.set(NOON + 2 * DAY_S)
    async with harness.runtime.session_cache.lease(session):
        assert (await harness.gc()).sessions == 0
        assert await harness.session_ids() == [session]
    assert (await harness.gc()).sessions == 1


async def test_a_request_during_a_deletion_gets_session_not_found(harness: RetentionHarness) -> None:
    session = await harness.create_closed("one")
    kinds: list[str] = []

    async def send_request(request: Awaitable[object]) -> None:
        kinds.append(await problem_kind(request))

    async with trio.open_nursery() as nursery:
        with harness.runtime.session_cache.try_delete([session]) as deleting:
            nursery.start_soon(send_request, harness.runtime.fork_rewind.fork(session))
            nursery.start_soon(send_request, harness.runtime.fork_rewind.history(session))
            await commit(harness.log, write(session=DAEMON_SESSION, mutations=[*map(ExpireSession, deleting)]))
            assert (deleting, kinds) == ([session], [])
    assert kinds == ["session_not_found", "session_not_found"]


async def test_sessions_in_use_do_not_prevent_the_deletion_of_others(harness: RetentionHarness) -> None:
    in_use = [await harness.create_closed() for _ in range(BATCH_SIZE + 1)]
    others = [await harness.create_closed(), await harness.create_closed()]
    harness.storage = StorageSettings(retain_closed_days=1)
    harness.clock.set(NOON + 2 * DAY_S)
    async with AsyncExitStack() as readers:
        for session in in_use:
            await readers.enter_async_context(harness.runtime.session_cache.lease(session))
        assert (await harness.gc()).sessions == 2
    assert await harness.session_ids() == in_use
    assert [event.sessions for event in harness.expired_events] == [(*others,)]


async def test_a_session_can_be_deleted_right_after_its_close(log: Log) -> None:
    async with Runtime(FakeModel(), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await runtime.create_session("walrus")
        await runtime.send_to(session, "Hello")
        await runtime.close_session(session)
        await wait_all_tasks_blocked()
        with runtime.session_cache.try_delete([session]) as chosen:
            assert chosen == [session]


async def test_a_session_being_forked_is_not_deleted(harness: RetentionHarness) -> None:
    session = await harness.create_closed("one")
    harness.storage = StorageSettings(retain_closed_days=1)
    harness.clock.set(NOON + 2 * DAY_S)
    async with harness.runtime.session_cache.pin(session):
        assert (await harness.gc()).sessions == 0
    assert (await harness.gc()).sessions == 1


async def test_the_order_of_deletions_over_the_size_limit(harness: RetentionHarness) -> None:
    """Outputs of closed sessions, closed sessions, outputs of open ones; each oldest first, as needed."""
    first, second, open_ = (
        await harness.create_closed("x" * 2 * MB),
        await harness.create_closed("y" * 2 * MB),
        await harness.create_open(),
    )
    for session, ref in ((first, "a"), (open_, "c"), (second, "b"), (open_, "d")):
        await harness.store_output(session, ref, 2)
    full = (await harness.log.space_usage()).used_bytes
    remaining = []
    for megabytes in (1, 3, 5, 7, 9, 11):
        harness.storage = StorageSettings(max_db_bytes=full - megabytes * MB)
        await harness.gc()
        remaining.append((await harness.session_ids(), await harness.stored_refs(first, second, open_)))
    assert remaining == [
        ([first, second, open_], ["b", "c", "d"]),
        ([first, second, open_], ["c", "d"]),
        ([second, open_], ["c", "d"]),
        ([open_], ["c", "d"]),
        ([open_], ["d"]),
        ([open_], []),
    ]
    assert [event.sessions for event in harness.expired_events] == [(first,), (second,)]
    assert not [*harness.collector.warnings()]


async def test_nothing_is_deleted_that_would_free_no_space(harness: RetentionHarness) -> None:
    """Events that a fork inherits are never deleted, nor is an output that an open session also has."""
    forked, unforked = await harness.create_closed("x" * 3 * MB), await harness.create_closed("y" * MB)
    fork = await harness.create_open(fork_of=forked)
    for session, ref, megabytes in ((forked, "a", 1), (fork, "a", 1), (unforked, "b", 1)):
        await harness.store_output(session, ref, megabytes)
    full = (await harness.log.space_usage()).used_bytes
    for megabytes, remaining in ((1, [forked, unforked, fork]), (2, [forked, fork])):
        harness.storage = StorageSettings(max_db_bytes=full - megabytes * MB + MB // 4)
        result = await harness.collector.collect(dry_run=True)
        assert (result.outputs, result.sessions) == (2 - megabytes, megabytes - 1)
        await harness.gc()
        assert (await harness.session_ids(), await harness.stored_refs(forked)) == (remaining, ["a"])
    harness.storage = StorageSettings(max_db_bytes=2 * MB)
    await harness.gc()
    assert (await harness.session_ids(), await harness.stored_refs(forked, fork)) == ([forked, fork], []), (
        "outputs of open sessions are deleted last"
    )


async def test_open_sessions_lose_nothing_while_a_closed_session_is_being_read(harness: RetentionHarness) -> None:
    session, open_ = await harness.create_closed("x" * 2 * MB), await harness.create_open()
    await harness.store_output(open_, "a", 2)
    harness.storage = StorageSettings(max_db_bytes=3 * MB)
    async with harness.runtime.session_cache.lease(session):
        assert (await harness.gc()).outputs == 0
        assert len([*harness.collector.warnings()]) == 1
    assert (await harness.gc()).sessions == 1
    assert await harness.stored_refs(open_) == ["a"]


async def test_events_of_open_sessions_are_never_deleted_and_a_warning_is_shown(harness: RetentionHarness) -> None:
    session = await harness.create_open("x" * 3 * MB)
    harness.storage = StorageSettings(max_db_bytes=2 * MB)
    assert (await harness.gc()).sessions == 0
    [warning] = harness.collector.warnings()
    assert "storage.max_db_bytes allows (2.0 MB)" in warning
    assert len(await harness.texts(session)) == 2
    harness.storage = StorageSettings()
    await harness.gc()
    assert not [*harness.collector.warnings()]


async def test_a_dry_run_reports_deletions_and_deletes_nothing(harness: RetentionHarness) -> None:
    first, open_ = await harness.create_closed("x" * MB), await harness.create_open()
    await harness.store_output(first, "a", 1)
    await harness.store_output(open_, "b", 2)
    harness.clock.set(NOON + DAY_S)
    second = await harness.create_closed("y" * MB)
    await harness.store_output(second, "c", 1)
    used = (await harness.log.space_usage()).used_bytes
    plans = []
    for storage in (
        StorageSettings(),
        StorageSettings(retain_closed_days=0.5),
        StorageSettings(max_db_bytes=used - 1),
        StorageSettings(max_db_bytes=used - 3 * MB),
        StorageSettings(retain_closed_days=0.5, max_db_bytes=1024 * 1024),
    ):
        harness.storage = storage
        harness.clock.set(NOON + DAY_S)
        result = await harness.collector.collect(dry_run=True)
        plans.append((result.sessions, result.outputs, result.events, round(result.bytes / MB)))
    assert plans == [(0, 0, 0, 0), (1, 1, 5, 2), (0, 1, 0, 1), (1, 2, 5, 3), (2, 3, 10, 6)]
    assert await harness.session_ids() == [first, open_, second]
    assert await harness.stored_refs(first, open_, second) == ["a", "b", "c"]


async def test_collection_runs_at_start_and_on_request(harness: RetentionHarness) -> None:
    first = await harness.create_closed()
    harness.storage = StorageSettings(retain_closed_days=0.25)
    harness.clock.set(NOON + 0.5 * DAY_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(harness.collector.run)
        await wait_deleted(harness, first)
        second = await harness.create_closed()
        harness.clock.set(NOON + DAY_S)
        harness.collector.request()
        await wait_deleted(harness, second)
        nursery.cancel_scope.cancel()
    assert [(event.sessions, event.reason) for event in harness.expired_events] == [
        ((first,), "retention"),
        ((second,), "retention"),
    ]


async def test_collection_runs_after_many_bytes_were_written(harness: RetentionHarness) -> None:
    session = await harness.create_closed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(harness.collector.run)
        await wait_all_tasks_blocked()
        harness.storage = StorageSettings(max_db_bytes=3 * MB)
        for ref in "abc":
            await harness.store_output(session, ref, 2)
        await wait_until(harness, lambda used, _: used <= 3 * MB)
        nursery.cancel_scope.cancel()
    assert await harness.session_ids() == [session]
    assert await harness.stored_refs(session) == ["c"]


async def wait_deleted(harness: RetentionHarness, session: int) -> None:
    await wait_until(harness, lambda _, listed: session not in listed)


async def wait_until(harness: RetentionHarness, predicate: Callable[[int, list[int]], bool]) -> None:
    """Waits until the predicate is true for the used bytes and the listed sessions."""
    with trio.fail_after(20):
        while True:
            if predicate((await harness.log.space_usage()).used_bytes, await harness.session_ids()):
                return
            await trio.lowlevel.checkpoint()
