"""Tests the messages that a fork inherits: when they are loaded, counted, evicted and encoded."""

from collections.abc import AsyncIterator
from weakref import ref

import pytest
import trio
import trio.testing

from tests.fakes.live_session import live_session
from tests.fakes.memory_log import MemoryLog
from tests.fakes.model import BlockingReply, FakeModel
from walrus_protocol.content import Assistant, Message, ToolOutput, User
from walrus_protocol.events import Done, Parent, decode_row
from walrus_protocol.methods.fork_rewind import CheckpointResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import EncodedMessage, ModelRequest, OnChunk, Reply
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.store.errors import StorageFull
from walrusd.store.tables.event import EventRow

IDLE_S = 60.0


class ReadCountingLog(MemoryLog):
    """Counts the reads of events."""

    reads = 0

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[EventRow]:
        self.reads += 1
        return await super().events(session, since, limit, max_bytes)


class EncodingModel:
    """A model that records which messages it encodes and which it sends."""

    def __init__(self) -> None:
        self.encoded: list[Message] = []
        self.sent: list[list[bytes]] = []

    async def reply(self, request: ModelRequest, _: OnChunk) -> Reply:
        await trio.lowlevel.checkpoint()
        self.sent.append([message.blocks for message in request.history.render("w", self._encode)])
        return Reply(content=f"{len(self.sent)}.")

    def _encode(self, message: Message) -> EncodedMessage:
        assert not isinstance(message, ToolOutput)
        self.encoded.append(message)
        return EncodedMessage("any", str(message.content).encode())


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
async def runtime(model: FakeModel, log: MemoryLog) -> AsyncIterator[Runtime]:
    async with Runtime(model, log=log, idle_evict_s=IDLE_S) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        yield runtime


async def send_texts(runtime: Runtime, *texts: str) -> int:
    session = await runtime.create_session("walrus")
    for text in texts:
        await runtime.send_to(session, text)
    return session


async def test_a_fork_loads_its_history_on_first_use_and_never_loads_its_parent_session(log: MemoryLog) -> None:
    async with Runtime(FakeModel(), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        parent = await send_texts(runtime, "one")
    async with Runtime(FakeModel(), log=MemoryLog(log)) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        child = live_session(runtime, (await runtime.fork_rewind.fork(parent)).session)
        size = child.size
        assert child.session.conversation.missing_parent == Parent(session=parent, seq=4, messages=2)
        await runtime.send_to(child.id, "two")
        assert child.session.history.messages[:2] == [User("one"), Assistant(content="ok")]
        rows = [*await runtime.log.events(child.id, 0, 100), *await runtime.log.events(parent, 0, 100)]
        assert child.size == sum(len(row.body) for row in rows) > size
        assert runtime.session_cache.find_live(parent) is None


async def test_the_resume_point_of_a_running_turn_is_known_without_reading_the_log(log: MemoryLog) -> None:
    log, gate = ReadCountingLog(log), BlockingReply()
    async with Runtime(FakeModel(gate), log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        session = await send_texts(runtime)
        await runtime.send(session, MessageRequest(content="one"))
        await gate.reached.wait()
        assert await runtime.fork_rewind.checkpoint(session, "here") == CheckpointResult(at=2)
        child = (await runtime.fork_rewind.fork(session)).session
        assert (await runtime.session(child)).messages == 1
        assert log.reads == 0


async def test_concurrent_reads_of_an_inherited_history_return_the_same_messages(
    runtime: Runtime, model: FakeModel
) -> None:
    child = (await runtime.fork_rewind.fork(await send_texts(runtime, "one", "two"))).session
    found: list[list[Message]] = []

    async def read_history() -> None:
        found.append([*await runtime.fork_rewind.history(child)][:4])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.send_to, child, "three")
        for _ in range(5):
            nursery.start_soon(read_history)
    assert found == [model.requests[-1][:4]] * 5
    assert len(model.requests[-1]) == 5


async def test_parents_and_forks_are_evicted_independently(
    runtime: Runtime, model: FakeModel, autojump_clock: trio.testing.MockClock
) -> None:
    parent = await send_texts(runtime, "one")
    child = (await runtime.fork_rewind.fork(parent)).session
    await runtime.send_to(child, "two")
    references = ref(live_session(runtime, child)), ref(live_session(runtime, parent))
    async with runtime.session_cache.lease(child):
        await trio.sleep(3 * IDLE_S)
        assert [reference() is None for reference in references] == [False, True]
        await runtime.send_to(child, "three")
    await trio.sleep(3 * IDLE_S)
    assert references[0]() is None
    await runtime.fork_rewind.rewind(child, 4)
    await trio.sleep(3 * IDLE_S)
    await runtime.send_to(child, "drei")
    assert [str(message.content) for message in model.requests[-1] if isinstance(message, User)] == [
        "one",
        "two",
        "drei",
    ]


async def test_inherited_messages_are_encoded_once_and_a_rewind_encodes_none_again(
    log: MemoryLog,
) -> None:
    model = EncodingModel()
    async with Runtime(model, log=log) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        child = (await runtime.fork_rewind.fork(await send_texts(runtime, "one"))).session
        model.encoded.clear()
        await runtime.send_to(child, "two")
        await runtime.send_to(child, "three")
        await runtime.fork_rewind.rewind(child, 4)
        await runtime.send_to(child, "drei")
    assert model.sent[1:] == [
        [b"one", b"1.", b"two"],
        [b"one", b"1.", b"two", b"2.", b"three"],
        [b"one", b"1.", b"two", b"2.", b"drei"],
    ]
    expected = [User("one"), Assistant(content="1."), User("two"), Assistant(content="2."), User("three"), User("drei")]
    assert model.encoded == expected


async def test_a_fork_with_an_unreadable_parent_log_fails_and_affects_no_other_session(
    runtime: Runtime, log: MemoryLog
) -> None:
    parent = await send_texts(runtime, "one")
    child = (await runtime.fork_rewind.fork(parent)).session
    unreadable = b'{"type":"from_a_newer_version"}'
    log.db.execute("UPDATE event SET body = ?, text = NULL WHERE session = ? AND seq = 2", (unreadable, parent))
    await runtime.send_to(child, "two")
    done = decode_row((await log.events(child, 2, 1))[0].body)
    assert isinstance(done, Done)
    assert done.error is not None
    assert (done.error.kind, "session 1 cannot be read on from seq 2" in done.error.message) == ("internal", True)
    with pytest.raises(Problem) as refused:
        await runtime.fork_rewind.history(child)
    assert refused.value.kind == "storage_failed"
    log.db.execute("DELETE FROM event WHERE session = ?", (parent,))
    with pytest.raises(Problem, match="from seq 1: it ends there"):
        await runtime.fork_rewind.history(child)
    with pytest.raises(Problem, match="from seq 1: it ends there"):
        await runtime.fork_rewind.fork(parent, 2)
    assert (await runtime.send_to(parent, "more")).final_response == "ok"


async def test_a_full_disk_refuses_fork_rewind_and_checkpoint_and_nothing_changes(
    runtime: Runtime, log: MemoryLog
) -> None:
    session = await send_texts(runtime, "one")
    before = await runtime.session(session)
    log.fail_with = StorageFull("full")
    commands = runtime.fork_rewind
    for request in (commands.fork(session), commands.rewind(session, 1), commands.checkpoint(session, "x")):
        with pytest.raises(Problem) as refused:
            await request
        assert refused.value.kind == "storage_full"
    log.fail_with = None
    assert await runtime.session(session) == before
    assert await commands.checkpoints(session) == []
    assert [info.id for info in await runtime.sessions()] == [session]
    assert (await runtime.send_to(session, "two")).final_response == "ok"


async def test_a_cancelled_rewind_leaves_the_session_usable(runtime: Runtime) -> None:
    session = await send_texts(runtime, "one", "two")
    for steps in range(6):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runtime.fork_rewind.rewind, session, 4)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert not live_session(runtime, session).is_busy
        messages = (await runtime.session(session)).messages
        assert messages == len(await runtime.fork_rewind.history(session))
        assert messages in {2, 4}
    assert (await runtime.send_to(session, "three")).final_response == "ok"
