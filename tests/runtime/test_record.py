"""The one door: check → persist → apply → publish, joined, in order, and never half."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes.stores import DISKS
from tests.runtime.machine_valve import Valve
from walrus_protocol.events import (
    AnyEvent,
    AssistantMessage,
    Done,
    Durable,
    InterruptRequested,
    Live,
    SessionClosed,
    SessionCreated,
    UserMessage,
    decode_row,
)
from walrusd.runtime.everything import Everything
from walrusd.runtime.kept import Kept
from walrusd.runtime.record import Beside, Overtaken
from walrusd.runtime.sessions import LiveSession, Sessions, Shared
from walrusd.session.states import Refused
from walrusd.store.log import Log, Queued, Span, StorageFailed, StorageFull, Write
from walrusd.store.memory import MemoryLog


class Office:
    """Sessions over a log, and what was published, in order."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.published: list[AnyEvent] = []
        self.bugs: list[BaseException] = []
        everything = Everything(log, lambda: 1.0)
        shared = Shared(log=log, clock=lambda: 1.0, see=self._see, broken=self.bugs.append, everything=everything)
        self.sessions = Sessions(shared, Kept(600))

    def _see(self, agent: str, event: AnyEvent) -> None:
        if not isinstance(event, Live):
            self.published.append(event)

    async def check(self, live: LiveSession) -> list[Durable]:
        """The log of a session; it is what is in memory."""
        assert self.bugs == []
        rows = await self.log.events(live.id, 0, 1000)
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        assert live.session.outline.last_seq == live.feed.last_seq == len(rows)
        assert await self.log.outline(live.id) == live.session.outline
        assert await self.log.queue(live.id) == live.inbox
        return [decode_row(row.body) for row in rows]


class Counted(Valve):
    """Shows what was written."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.writes: list[Write] = []

    def submit(self, write: Write) -> None:
        self.writes.append(write)
        super().submit(write)


@pytest.fixture
def log() -> Counted:
    return Counted(MemoryLog())


@pytest.fixture
def office(log: Counted) -> Office:
    return Office(log)


@pytest.fixture
async def live(office: Office, log: Counted) -> LiveSession:
    live = await office.sessions.create(SessionCreated(agent="walrus"))
    log.writes.clear()
    return live


@asynccontextmanager
async def writing(live: LiveSession, log: Counted) -> AsyncIterator[trio.Nursery]:
    """A turn is open, and the write that follows it is under way until the log is released."""
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


def kinds(events: list[Durable]) -> list[str]:
    return [str(type(event).__struct_config__.tag) for event in events]


def waiting(place: int, content: str = "") -> Beside:
    return Beside(enqueue=(Queued(place=place, kind="message", content=content),))


async def test_what_comes_while_one_is_written_is_written_together_after_it(
    office: Office, live: LiveSession, log: Counted
) -> None:
    async with writing(live, log) as nursery:
        nursery.start_soon(partial(live.recorder.record, beside=waiting(1)))
        nursery.start_soon(live.recorder.record, InterruptRequested(by="me"))
        await trio.testing.wait_all_tasks_blocked()
        assert len(log.writes) == 1
        log.release()
        await trio.testing.wait_all_tasks_blocked()
        assert [(len(write.bodies), len(write.enqueue)) for write in log.writes] == [(1, 0), (1, 1)]
        assert kinds(await office.check(live))[2:] == ["assistant_message", "interrupt_requested"]


async def test_what_is_refused_among_others_harms_none_of_them(office: Office, live: LiveSession, log: Counted) -> None:
    async with writing(live, log) as nursery:
        refused: list[type[Exception]] = []

        async def refuse(*events: Durable, beside: Beside) -> None:
            with pytest.raises((Refused, Overtaken, UnicodeEncodeError)) as met:
                await live.recorder.record(*events, beside=beside)
            refused.append(met.type)

        nursery.start_soon(live.recorder.record, InterruptRequested(by="first"))
        await trio.testing.wait_all_tasks_blocked()
        for events, beside in (
            ((InterruptRequested(by="half"), SessionClosed()), Beside()),
            ((InterruptRequested(by="too late"),), Beside(only_if=lambda outline: outline.turn is None)),
            ((UserMessage(content="\ud800", kind="steer"),), Beside()),
        ):
            nursery.start_soon(partial(refuse, *events, beside=beside))
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(live.recorder.record, InterruptRequested(by="last"))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
        await trio.testing.wait_all_tasks_blocked()
        assert set(refused) == {Refused, Overtaken, UnicodeEncodeError}
        requests = [event.by for event in await office.check(live) if isinstance(event, InterruptRequested)]
        assert requests == ["first", "last"]
        assert len(log.writes) == 2


async def test_what_is_refused_alone_is_not_written(office: Office, live: LiveSession, log: Counted) -> None:
    with pytest.raises(Refused):
        await live.recorder.record(Done(stop_reason="no_action"))
    with pytest.raises(UnicodeEncodeError):
        await live.recorder.record(UserMessage(content="\ud800"))
    assert log.writes == []
    await live.recorder.record(UserMessage(content="hi"))
    assert kinds(await office.check(live)) == ["session_created", "user_message"]


async def test_the_end_of_a_turn_and_the_beginning_of_the_next_are_written_one_after_the_other(
    office: Office, live: LiveSession, log: Counted
) -> None:
    async with writing(live, log) as nursery:
        nursery.start_soon(live.recorder.record, Done(stop_reason="text_response"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(live.recorder.record, UserMessage(content="more"))
        nursery.start_soon(partial(live.recorder.record, beside=waiting(1)))
        await trio.testing.wait_all_tasks_blocked()
        log.release()
        await trio.testing.wait_all_tasks_blocked()
        assert [len(write.bodies) for write in log.writes] == [1, 1, 1]
        assert kinds(await office.check(live))[2:] == ["assistant_message", "done", "user_message"]
        assert (await log.span(live.id, 1), await log.span(live.id, 2)) == (Span(2, 4), Span(5, None))


async def test_a_recording_cannot_be_cancelled_half_way(office: Office, live: LiveSession, log: Counted) -> None:
    async with writing(live, log) as nursery:
        nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        log.release()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            assert kinds(await office.check(live))[-1] == "assistant_message"


async def test_a_store_that_fails_uses_no_seq_and_tells_all_who_wrote_together(
    office: Office, live: LiveSession, log: Counted
) -> None:
    async with writing(live, log) as nursery:
        told: list[StorageFailed] = []

        async def fail(*events: Durable, beside: Beside) -> None:
            with pytest.raises(StorageFull) as met:
                await live.recorder.record(*events, beside=beside)
            told.append(met.value)

        nursery.start_soon(partial(fail, InterruptRequested(), beside=Beside(applied=lambda: told.clear())))
        nursery.start_soon(partial(fail, beside=waiting(1)))
        await trio.testing.wait_all_tasks_blocked()
        log.hold("before")
        log.release()
        log.failing = StorageFull("no space left")
        await trio.testing.wait_all_tasks_blocked()
        assert len(told) == 2
        log.failing = None
        await live.recorder.record(Done(stop_reason="error"))
        assert kinds(await office.check(live))[2:] == ["assistant_message", "done"]
        assert live.inbox == []


async def test_what_is_told_beside_an_event_is_told_when_it_is_published_and_before_the_next(
    office: Office, live: LiveSession, log: Counted
) -> None:
    async with writing(live, log) as nursery:
        told: list[list[str]] = []

        def tell() -> None:
            told.append(kinds([event for event in office.published if isinstance(event, Durable)]))

        for beside in (Beside(applied=tell), Beside(applied=tell)):
            nursery.start_soon(partial(live.recorder.record, InterruptRequested(), beside=beside))
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        log.release()
        await trio.testing.wait_all_tasks_blocked()
        assert [len(published) for published in told] == [4, 5]


@pytest.mark.parametrize("store", DISKS)
async def test_events_of_many_sessions_are_published_in_the_order_of_their_offsets(store: str, tmp_path: Path) -> None:
    log = await DISKS[store](tmp_path).open()
    office = Office(log)

    async def talk() -> None:
        live = await office.sessions.create(SessionCreated(agent="walrus"))
        for n in range(5):
            await live.recorder.record(UserMessage(content=f"{n}"))
            await live.recorder.record(AssistantMessage(round=1, content="yes"), Done(stop_reason="text_response"))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(talk)
    rows = [row for session in range(1, 51) for row in await log.events(session, 0, 100)]
    assert len(rows) == 800
    assert office.published == [decode_row(row.body) for row in sorted(rows, key=lambda row: row.offset)]
    await log.aclose()


async def test_recorders_wake_when_all_that_became_durable_with_theirs_is_published(office: Office) -> None:
    lives = [await office.sessions.create(SessionCreated(agent="walrus")) for _ in range(20)]
    office.published.clear()
    seen: list[int] = []

    async def record(live: LiveSession) -> None:
        await live.recorder.record(UserMessage(content="hi"))
        seen.append(len(office.published))

    async with trio.open_nursery() as nursery:
        for live in lives:
            nursery.start_soon(record, live)
    assert seen == [20] * 20
