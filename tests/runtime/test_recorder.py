"""Tests the recorder: it checks, persists, applies and publishes events, in order and in batches."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes.live_session import create_session
from tests.fakes.memory_log import MemoryLog
from tests.fakes.stores import DISKS
from tests.runtime.model_based.controllable_store import ControllableStore
from walrus_protocol.events import (
    AnyEvent,
    AnySessionEvent,
    AssistantMessage,
    Done,
    InterruptRequested,
    SessionClosed,
    UserMessage,
    decode_row,
)
from walrusd.runtime.hook import Hook
from walrusd.runtime.hooks import ComposedHook
from walrusd.runtime.recording.recorder import PreconditionFailed, TransactionExtras
from walrusd.runtime.sessions.live_session import LiveSession, SessionDependencies
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.runtime.streams.global_stream import GlobalStream
from walrusd.session.transitions import InvalidTransition
from walrusd.store.contract import Log, Write
from walrusd.store.errors import StorageFailed, StorageFull
from walrusd.store.tables.inbox import Enqueue, InboxEntry, read_inbox
from walrusd.store.tables.turn import TurnSpan, read_turn_span


class PublishedEvents(Hook):
    """Adds the published events to a list."""

    def __init__(self, events: list[AnyEvent]) -> None:
        self._events = events

    def on_event(self, agent: str, event: AnyEvent) -> None:
        self._events.append(event)


class RecorderHarness:
    """Sessions over a log, with a list of the published events in order."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.published: list[AnyEvent] = []
        self.bugs: list[BaseException] = []
        global_stream = GlobalStream(log, lambda: 1.0)
        shared = SessionDependencies(
            log=log,
            clock=lambda: 1.0,
            hook=ComposedHook(PublishedEvents(self.published)),
            on_state_mismatch=self.bugs.append,
            global_stream=global_stream,
        )
        self.sessions = SessionCache(shared, 600)

    async def check_log(self, live: LiveSession) -> list[AnySessionEvent]:
        """Returns the logged events of a session. Asserts that they agree with its state in memory."""
        assert self.bugs == []
        rows = await self.log.events(live.id, 0, 1000)
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        assert live.session.state.last_seq == live.stream.last_seq == len(rows)
        assert await self.log.session_state(live.id) == live.session.state
        assert await self.log.read(read_inbox, live.id) == live.inbox.entries
        return [decode_row(row.body) for row in rows]


class WriteRecordingStore(ControllableStore):
    """A controllable store that records the submitted writes."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.writes: list[Write] = []

    def submit(self, write: Write) -> None:
        self.writes.append(write)
        super().submit(write)


@pytest.fixture
def log() -> WriteRecordingStore:
    return WriteRecordingStore(MemoryLog())


@pytest.fixture
def harness(log: WriteRecordingStore) -> RecorderHarness:
    return RecorderHarness(log)


@pytest.fixture
async def live(harness: RecorderHarness, log: WriteRecordingStore) -> LiveSession:
    live = await create_session(harness.sessions)
    log.writes.clear()
    return live


@asynccontextmanager
async def write_in_progress(live: LiveSession, log: WriteRecordingStore) -> AsyncIterator[trio.Nursery]:
    """Opens a turn, and starts a write that is in progress until the log is released."""
    await live.recorder.record(UserMessage(content="hi"))
    log.writes.clear()
    log.hold("before")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.recorder.record, AssistantMessage(round=1, content="hello"))
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield nursery
        finally:
            log.release(for_good=True)


def event_tags(events: list[AnySessionEvent]) -> list[str]:
    return [str(type(event).__struct_config__.tag) for event in events]


def enqueue_extras(place: int, content: str = "") -> TransactionExtras:
    return TransactionExtras(mutations=(Enqueue(InboxEntry(place=place, kind="message", content=content)),))


async def test_events_submitted_during_a_write_are_written_together_after_it(
    harness: RecorderHarness, live: LiveSession, log: WriteRecordingStore
) -> None:
    async with write_in_progress(live, log) as nursery:
        nursery.start_soon(partial(live.recorder.record, extras=enqueue_extras(1)))
        nursery.start_soon(live.recorder.record, InterruptRequested(by="me"))
        await trio.testing.wait_all_tasks_blocked()
        assert len(log.writes) == 1
        log.release()
        await trio.testing.wait_all_tasks_blocked()
        assert [
            (len(write.bodies), sum(isinstance(mutation, Enqueue) for mutation in write.mutations))
            for write in log.writes
        ] == [(1, 0), (1, 1)]
        assert event_tags(await harness.check_log(live))[2:] == ["assistant_message", "interrupt_requested"]


async def test_a_refused_event_does_not_affect_the_others_of_its_batch(
    harness: RecorderHarness, live: LiveSession, log: WriteRecordingStore
) -> None:
    async with write_in_progress(live, log) as nursery:
        refused: list[type[Exception]] = []

        async def expect_refusal(*events: AnySessionEvent, extras: TransactionExtras) -> None:
            with pytest.raises((InvalidTransition, PreconditionFailed, UnicodeEncodeError)) as caught:
                await live.recorder.record(*events, extras=extras)
            refused.append(caught.type)

        nursery.start_soon(live.recorder.record, InterruptRequested(by="first"))
        await trio.testing.wait_all_tasks_blocked()
        for events, extras in (
            ((InterruptRequested(by="half"), SessionClosed()), TransactionExtras()),
            (
                (InterruptRequested(by="too late"),),
                TransactionExtras(precondition=lambda state: state.turn is None),
            ),
            ((UserMessage(content="\ud800", kind="steer"),), TransactionExtras()),
        ):
            nursery.start_soon(partial(expect_refusal, *events, extras=extras))
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(live.recorder.record, InterruptRequested(by="last"))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
        await trio.testing.wait_all_tasks_blocked()
        assert set(refused) == {InvalidTransition, PreconditionFailed, UnicodeEncodeError}
        requests = [event.by for event in await harness.check_log(live) if isinstance(event, InterruptRequested)]
        assert requests == ["first", "last"]
        assert len(log.writes) == 2


async def test_an_event_refused_alone_is_not_written(
    harness: RecorderHarness, live: LiveSession, log: WriteRecordingStore
) -> None:
    with pytest.raises(InvalidTransition):
        await live.recorder.record(Done(stop_reason="no_action"))
    with pytest.raises(UnicodeEncodeError):
        await live.recorder.record(UserMessage(content="\ud800"))
    assert log.writes == []
    await live.recorder.record(UserMessage(content="hi"))
    assert event_tags(await harness.check_log(live)) == ["session_created", "user_message"]


async def test_the_end_of_a_turn_and_the_start_of_the_next_are_separate_writes(
    harness: RecorderHarness, live: LiveSession, log: WriteRecordingStore
) -> None:
    async with write_in_progress(live, log) as nursery:
        nursery.start_soon(live.recorder.record, Done(stop_reason="text_response"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(live.recorder.record, UserMessage(content="more"))
        nursery.start_soon(partial(live.recorder.record, extras=enqueue_extras(1)))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
        await trio.testing.wait_all_tasks_blocked()
        assert [len(write.bodies) for write in log.writes] == [1, 1, 1]
        assert event_tags(await harness.check_log(live))[2:] == ["assistant_message", "done", "user_message"]
        assert (await log.read(read_turn_span, live.id, 1), await log.read(read_turn_span, live.id, 2)) == (
            TurnSpan(2, 4),
            TurnSpan(5, None),
        )


async def test_a_write_in_progress_cannot_be_cancelled(
    harness: RecorderHarness, live: LiveSession, log: WriteRecordingStore
) -> None:
    async with write_in_progress(live, log) as nursery:
        nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        log.release()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            assert event_tags(await harness.check_log(live))[-1] == "assistant_message"


async def test_a_failed_write_uses_no_seq_and_fails_every_event_of_its_batch(
    harness: RecorderHarness, live: LiveSession, log: WriteRecordingStore
) -> None:
    async with write_in_progress(live, log) as nursery:
        errors: list[StorageFailed] = []

        async def expect_failure(*events: AnySessionEvent, extras: TransactionExtras) -> None:
            with pytest.raises(StorageFull) as caught:
                await live.recorder.record(*events, extras=extras)
            errors.append(caught.value)

        nursery.start_soon(
            partial(expect_failure, InterruptRequested(), extras=TransactionExtras(on_applied=lambda: errors.clear()))
        )
        nursery.start_soon(partial(expect_failure, extras=enqueue_extras(1)))
        await trio.testing.wait_all_tasks_blocked()
        log.hold("before")
        log.release()
        log.failure = StorageFull("no space left")
        await trio.testing.wait_all_tasks_blocked()
        assert len(errors) == 2
        log.failure = None
        await live.recorder.record(Done(stop_reason="error"))
        assert event_tags(await harness.check_log(live))[2:] == ["assistant_message", "done"]
        assert live.inbox.entries == []


async def test_callbacks_run_after_their_event_is_published_and_before_the_next(
    harness: RecorderHarness, live: LiveSession, log: WriteRecordingStore
) -> None:
    async with write_in_progress(live, log) as nursery:
        published: list[list[str]] = []

        def record_published() -> None:
            published.append(event_tags([event for event in harness.published if isinstance(event, AnySessionEvent)]))

        for extras in (TransactionExtras(on_applied=record_published), TransactionExtras(on_applied=record_published)):
            nursery.start_soon(partial(live.recorder.record, InterruptRequested(), extras=extras))
        await trio.testing.wait_all_tasks_blocked()
        assert published == []
        log.release()
        await trio.testing.wait_all_tasks_blocked()
        assert [len(tags) for tags in published] == [4, 5]


@pytest.mark.parametrize("store", DISKS)
async def test_events_of_many_sessions_are_published_in_the_order_of_their_offsets(store: str, tmp_path: Path) -> None:
    log = await DISKS[store](tmp_path).open()
    harness = RecorderHarness(log)

    async def record_conversation() -> None:
        live = await create_session(harness.sessions)
        for n in range(5):
            await live.recorder.record(UserMessage(content=f"{n}"))
            await live.recorder.record(AssistantMessage(round=1, content="yes"), Done(stop_reason="text_response"))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(record_conversation)
    rows = [row for session in range(1, 51) for row in await log.events(session, 0, 100)]
    assert len(rows) == 800
    assert harness.published == [decode_row(row.body) for row in sorted(rows, key=lambda row: row.offset)]
    await log.aclose()


async def test_recorders_wake_after_every_event_of_the_same_commit_is_published(harness: RecorderHarness) -> None:
    live_sessions = [await create_session(harness.sessions) for _ in range(20)]
    harness.published.clear()
    counts: list[int] = []

    async def record(live: LiveSession) -> None:
        await live.recorder.record(UserMessage(content="hi"))
        counts.append(len(harness.published))

    async with trio.open_nursery() as nursery:
        for live in live_sessions:
            nursery.start_soon(record, live)
    assert counts == [20] * 20
