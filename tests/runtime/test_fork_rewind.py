"""Tests fork, rewind and checkpoint through the runtime, on both stores and over restarts."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from tests.fakes.model import BlockingReply, FakeModel, calls, fails, in_turn, replies
from tests.fakes.stores import LogDisk, disk
from walrus_protocol.content import Assistant, Message, ToolCall, ToolOutput, ToolSchema, User
from walrus_protocol.events import Parent, SessionCreated, ToolResult, decode_row
from walrus_protocol.methods import ParentInfo
from walrus_protocol.methods.fork_rewind import CheckpointResult, ForkResult, RewindResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, OnChunk, Reply, ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.session.session import Checkpoint
from walrusd.store.tables.session import SessionFilter

__all__ = ["disk"]
LOOK = ToolCall("c1", "look", {})
EVENTS_PER_TURN = 3
"""Number of events of a turn with one reply."""


class BlueLookHook(Hook):
    """A hook with the tool `look`, whose output is always "blue"."""

    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(ToolSchema(name="look", description="Look.", parameters={"type": "object"}))

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.record_started(None)
        return ToolResult(call_id=request.call.id, name="look", output="blue")


async def reply_message_count(request: ModelRequest, _: OnChunk) -> Reply:
    """Replies with the number of messages in the request."""
    await trio.lowlevel.checkpoint()
    return Reply(content=f"{len(request.history.messages)}", cost_usd=0.5)


class RestartableRuntime:
    """A runtime that can be restarted on the same log."""

    def __init__(self, disk: LogDisk, nursery: trio.Nursery) -> None:
        self._disk = disk
        self._nursery = nursery
        self.model = FakeModel(reply_message_count)
        self.runtime: Runtime

    async def start(self) -> None:
        self._stop_requested, self._stopped = trio.Event(), trio.Event()
        self.runtime = await self._nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[Runtime]) -> None:
        log = await self._disk.open()
        async with Runtime(self.model, BlueLookHook(), log=log) as runtime:
            runtime.add_agent(Agent(name="walrus"))
            await runtime.recover()
            task_status.started(runtime)
            await self._stop_requested.wait()
        await log.aclose()
        self._stopped.set()

    async def stop(self) -> None:
        self._stop_requested.set()
        await self._stopped.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def send_texts(self, *texts: str, session: int | None = None) -> int:
        session = session or await self.runtime.create_session("walrus", "me", title="on walruses")
        for text in texts:
            await self.runtime.send_to(session, text)
        return session

    async def shown_texts(self, session: int) -> list[str]:
        """Returns the text of the user and assistant messages that the model sees."""
        messages = await self.runtime.fork_rewind.history(session)
        return [str(message.content) for message in messages if not isinstance(message, ToolOutput)]


@pytest.fixture
async def harness(disk: LogDisk, nursery: trio.Nursery) -> AsyncIterator[RestartableRuntime]:
    harness = RestartableRuntime(disk, nursery)
    await harness.start()
    yield harness
    await harness.stop()


async def problem_kind(request: Awaitable[object]) -> str:
    with pytest.raises(Problem) as problem:
        await request
    assert problem.value.hint
    return problem.value.kind


async def test_a_fork_continues_from_the_parents_end_and_the_two_do_not_affect_each_other(
    harness: RestartableRuntime,
) -> None:
    parent = await harness.send_texts("one", "two")
    assert await harness.runtime.fork_rewind.fork(parent, created_by="me too") == ForkResult(
        session=2, at=1 + 2 * EVENTS_PER_TURN
    )
    await harness.send_texts("three", session=parent)
    await harness.send_texts("drei", session=2)
    assert await harness.shown_texts(2) == ["one", "1", "two", "3", "drei", "5"]
    assert await harness.shown_texts(parent) == ["one", "1", "two", "3", "three", "5"]
    info = await harness.runtime.session(2)
    assert (info.agent, info.title, info.created_by) == ("walrus", "on walruses", "me too")
    assert (info.parent, info.messages, info.last_seq, info.cost_usd) == (ParentInfo(session=1, seq=7), 6, 4, 0.5)


async def test_the_log_of_a_fork_is_its_own(harness: RestartableRuntime) -> None:
    await harness.runtime.fork_rewind.fork(await harness.send_texts("one"))
    turn = await (await harness.runtime.send(2, MessageRequest(content="more"))).wait_result()
    assert (turn.turn, turn.first_seq, turn.last_seq) == (1, 2, 4)
    rows = await harness.runtime.log.events(2, 0, 100)
    created = decode_row(rows[0].body)
    assert isinstance(created, SessionCreated)
    assert (created.parent, len(rows)) == (Parent(session=1, seq=4, messages=2), 4)


async def test_a_fork_may_begin_at_any_seq_and_returns_its_actual_starting_point(harness: RestartableRuntime) -> None:
    harness.model.respond = in_turn(calls(LOOK), replies("blue"))
    session = await harness.send_texts("what colour?")
    harness.model.respond = reply_message_count
    question: list[Message] = [User("what colour?")]
    looked: list[Message] = [*question, Assistant(calls=(LOOK,)), ToolOutput(call_id="c1", name="look", output="blue")]
    answered: list[Message] = [*looked, Assistant(content="blue")]
    begins: dict[int, tuple[int, list[Message]]] = {
        1: (1, []),
        **dict.fromkeys(range(2, 7), (2, question)),
        7: (7, looked),
        8: (8, answered),
        9: (9, answered),
    }
    assert (await harness.runtime.session(session)).last_seq == 9
    for at, (point, messages) in begins.items():
        forked = await harness.runtime.fork_rewind.fork(session, at)
        assert forked.at == point
        assert await harness.runtime.fork_rewind.history(forked.session) == messages
        count = sum(not isinstance(message, ToolOutput) for message in messages)
        assert (await harness.runtime.session(forked.session)).messages == count


async def test_a_closed_session_is_forked_and_a_fork_outlives_the_close_of_its_parent(
    harness: RestartableRuntime,
) -> None:
    parent = await harness.send_texts("one")
    before = (await harness.runtime.fork_rewind.fork(parent)).session
    await harness.runtime.close_session(parent)
    after = (await harness.runtime.fork_rewind.fork(parent)).session
    await harness.restart()
    for child in (before, after):
        await harness.send_texts("two", session=child)
        assert await harness.shown_texts(child) == ["one", "1", "two", "3"]


async def test_a_fork_of_a_fork_of_a_rewound_session_has_the_right_history(harness: RestartableRuntime) -> None:
    first = await harness.send_texts("one", "two", "three")
    await harness.runtime.fork_rewind.rewind(first, 4)
    await harness.send_texts("zwei", session=first)
    second = (await harness.runtime.fork_rewind.fork(first)).session
    await harness.send_texts("drei", session=second)
    await harness.runtime.fork_rewind.rewind(first, 1)
    await harness.runtime.fork_rewind.rewind(second, 1)
    await harness.send_texts("trois", session=second)
    third = (await harness.runtime.fork_rewind.fork(second)).session
    from_before_rewind_of_second = (await harness.runtime.fork_rewind.fork(second, 4)).session
    from_before_rewind_of_first = (await harness.runtime.fork_rewind.fork(first, 10)).session
    for _ in range(2):
        assert await harness.shown_texts(first) == []
        assert await harness.shown_texts(third) == ["one", "1", "zwei", "3", "trois", "5"]
        assert await harness.shown_texts(from_before_rewind_of_second) == ["one", "1", "zwei", "3", "drei", "5"]
        assert await harness.shown_texts(from_before_rewind_of_first) == ["one", "1", "two", "3", "three", "5"]
        for session, messages in (
            (first, 0),
            (third, 6),
            (from_before_rewind_of_second, 6),
            (from_before_rewind_of_first, 6),
        ):
            assert (await harness.runtime.session(session)).messages == messages
        await harness.restart()


async def test_a_deep_chain_of_forks_is_read(harness: RestartableRuntime) -> None:
    session, texts = await harness.send_texts("0"), ["0", "1"]
    for number in range(1, 60):
        session = (await harness.runtime.fork_rewind.fork(session)).session
        if number % 3 == 0:
            await harness.send_texts(str(number), session=session)
            texts += [str(number), str(len(texts) + 1)]
    await harness.restart()
    assert await harness.shown_texts(session) == texts


async def test_a_rewind_restores_the_history_and_keeps_the_cost(harness: RestartableRuntime) -> None:
    session = await harness.send_texts("one", "two", "three")
    before = await harness.runtime.session(session)
    assert await harness.runtime.fork_rewind.rewind(session, 4) == RewindResult(last_seq=11, to=4)
    after = await harness.runtime.session(session)
    assert (after.messages, after.cost_usd, after.usage, after.state) == (2, before.cost_usd, before.usage, "idle")
    turn = await (await harness.runtime.send(session, MessageRequest(content="zwei"))).wait_result()
    assert turn.turn == 4
    assert harness.model.requests[-1] == [User("one"), Assistant(content="1"), User("zwei")]


async def test_a_rewind_can_be_rewound(harness: RestartableRuntime) -> None:
    session = await harness.send_texts("one", "two")
    await harness.runtime.fork_rewind.rewind(session, 1)
    await harness.send_texts("eins", session=session)
    assert await harness.shown_texts(session) == ["eins", "1"]
    assert await harness.runtime.fork_rewind.rewind(session, 7) == RewindResult(last_seq=12, to=7)
    assert await harness.shown_texts(session) == ["one", "1", "two", "3"]
    await harness.restart()
    await harness.runtime.fork_rewind.rewind(session, 11)
    assert await harness.shown_texts(session) == ["eins", "1"]


async def test_a_rewind_into_a_round_ends_before_its_calls(harness: RestartableRuntime) -> None:
    harness.model.respond = in_turn(calls(LOOK), replies("blue"))
    session = await harness.send_texts("what colour?")
    assert await harness.runtime.fork_rewind.rewind(session, 5) == RewindResult(last_seq=10, to=2)
    assert await harness.runtime.fork_rewind.history(session) == [User("what colour?")]


async def test_a_key_identifies_one_message_over_rewinds_and_restarts(harness: RestartableRuntime) -> None:
    session = await harness.send_texts()
    first = await (await harness.runtime.send(session, MessageRequest(content="one", key="k"))).wait_result()
    await harness.runtime.fork_rewind.rewind(session, 1)
    for _ in range(2):
        assert (
            await (await harness.runtime.send(session, MessageRequest(content="one", key="k"))).wait_result() == first
        )
        assert await problem_kind(harness.runtime.send(session, MessageRequest(content="two", key="k"))) == "key_reused"
        await harness.restart()
    assert len(harness.model.requests) == 1


async def test_a_session_that_failed_can_be_rewound(harness: RestartableRuntime) -> None:
    session = await harness.send_texts("one")
    harness.model.respond = fails(RuntimeError("a bug"))
    await harness.send_texts("two", session=session)
    await harness.runtime.fork_rewind.rewind(session, 4)
    assert (await harness.runtime.session(session)).state == "error"
    harness.model.respond = reply_message_count
    await harness.send_texts("zwei", session=session)
    assert await harness.shown_texts(session) == ["one", "1", "zwei", "3"]


async def test_a_running_session_cannot_be_rewound_but_can_be_forked_and_checkpointed(
    harness: RestartableRuntime,
) -> None:
    gate = BlockingReply()
    harness.model.respond = in_turn(calls(LOOK), gate)
    session = await harness.send_texts()
    handle = await harness.runtime.send(session, MessageRequest(content="one"))
    await gate.reached.wait()
    commands = harness.runtime.fork_rewind
    assert await problem_kind(commands.rewind(session, 1)) == "session_busy"
    assert await commands.fork(session) == ForkResult(session=2, at=7)
    assert await commands.checkpoint(session, "here") == CheckpointResult(at=7)
    gate.released.set()
    await handle.wait_result()
    assert (await commands.history(2))[-1] == ToolOutput(call_id="c1", name="look", output="blue")


async def test_impossible_requests_are_refused(harness: RestartableRuntime) -> None:
    commands = harness.runtime.fork_rewind
    for request in (commands.fork(9), commands.rewind(9, 1), commands.checkpoint(9, "x"), commands.checkpoints(9)):
        assert await problem_kind(request) == "session_not_found"
    session = await harness.send_texts("one")
    assert await problem_kind(commands.fork(session, 5)) == "offset_in_future"
    assert await problem_kind(commands.rewind(session, 5)) == "offset_in_future"
    assert await problem_kind(commands.checkpoint(session, "42")) == "invalid_params"
    await harness.runtime.close_session(session)
    assert await problem_kind(commands.rewind(session, 1)) == "session_closed"
    assert await problem_kind(commands.checkpoint(session, "x")) == "session_closed"
    await harness.runtime.stop(grace_s=0)
    assert await problem_kind(commands.fork(session)) == "shutting_down"


async def test_a_checkpoint_name_can_be_moved_and_is_not_inherited_by_a_fork(
    harness: RestartableRuntime,
) -> None:
    commands, session = harness.runtime.fork_rewind, await harness.send_texts("one")
    assert await commands.checkpoint(session, "start") == CheckpointResult(at=4)
    assert await commands.checkpoint(session, "other") == CheckpointResult(at=5)
    await harness.send_texts("two", session=session)
    assert await commands.checkpoint(session, "start") == CheckpointResult(at=9)
    assert await commands.checkpoints((await commands.fork(session)).session) == []
    for _ in range(2):
        found = await harness.runtime.fork_rewind.checkpoints(session)
        assert found == [
            Checkpoint(name="other", at=5, seq=6, ts=found[0].ts),
            Checkpoint(name="start", at=9, seq=10, ts=found[1].ts),
        ]
        await harness.restart()


async def test_a_message_sent_during_a_rewind_sees_one_of_the_two_histories(harness: RestartableRuntime) -> None:
    before, back = ["one", "1", "two", "3"], ["one", "1"]
    for _ in range(10):
        session, outcomes = await harness.send_texts("one", "two"), list[str]()

        async def rewind(session: int = session, outcomes: list[str] = outcomes) -> None:
            try:
                await harness.runtime.fork_rewind.rewind(session, 4)
                outcomes.append("rewound")
            except Problem as busy:
                outcomes.append(busy.kind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rewind)
            nursery.start_soon(harness.runtime.send_to, session, "three")
        assert (*outcomes, await harness.shown_texts(session)) in [
            ("rewound", [*back, "three", "3"]),
            ("rewound", back),  # the rewind came after the end of the turn
            ("session_busy", [*before, "three", "5"]),
        ]
        await harness.send_texts("four", session=session)


async def test_every_step_of_a_scenario_survives_a_restart(harness: RestartableRuntime) -> None:
    """Restarts after each step; no detail of any session changes."""
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: harness.send_texts("one", "two"),
        lambda: harness.runtime.fork_rewind.checkpoint(1, "two"),
        lambda: harness.runtime.fork_rewind.fork(1),
        lambda: harness.runtime.fork_rewind.rewind(1, 4),
        lambda: harness.send_texts("zwei", session=1),
        lambda: harness.send_texts("drei", session=2),
        lambda: harness.runtime.fork_rewind.rewind(2, 1),
        lambda: harness.runtime.fork_rewind.fork(2),
        lambda: harness.runtime.fork_rewind.rewind(2, 4),
        lambda: harness.send_texts("vier", session=3),
        lambda: harness.runtime.fork_rewind.rewind(1, 8),
        lambda: harness.runtime.close_session(2),
        lambda: harness.runtime.fork_rewind.fork(2, 3),
        lambda: harness.send_texts("cinq", session=4),
    ]
    for step in steps:
        await step()
        before = await all_session_details(harness)
        await harness.restart()
        assert await all_session_details(harness) == before
    assert [await harness.shown_texts(session) for session in range(1, 5)] == [
        ["one", "1", "two", "3"],
        ["one", "1", "two", "3", "drei", "5"],
        ["one", "1", "two", "3", "vier", "5"],
        ["one", "1", "two", "3", "drei", "5", "cinq", "7"],
    ]


async def all_session_details(harness: RestartableRuntime) -> list[object]:
    """Returns the info, history and checkpoints of every session."""
    commands = harness.runtime.fork_rewind
    return [
        (info, await commands.history(info.id), await commands.checkpoints(info.id))
        for info in await harness.runtime.sessions(SessionFilter(include_closed=True))
    ]
