"""Fork, rewind and checkpoint on sessions as they live, on both stores, over restarts."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from tests.fakes.model import FakeModel, Gate, calls, fails, in_turn, says
from tests.fakes.stores import LogDisk, disk
from walrus_protocol.branches import CheckpointMade, Forked, WentBack
from walrus_protocol.content import Assistant, Message, ToolCall, ToolOutput, ToolSchema, User
from walrus_protocol.events import Parent, SessionCreated, ToolResult, decode_row
from walrus_protocol.methods import ParentInfo
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import ModelRequest, Reply, Say, ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.schemas import ToolRegistry
from walrusd.session.session import Checkpoint
from walrusd.store.log import Filter

__all__ = ["disk"]
LOOK = ToolCall("c1", "look", {})
ONE_TURN = 3
"""Events of a turn with one answer."""


class Looks(Hook):
    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(ToolSchema(name="look", description="Look.", parameters={"type": "object"}))

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.started(None)
        return ToolResult(call_id=request.call.id, name="look", output="blue")


async def numbers(request: ModelRequest, _: Say) -> Reply:
    """Says how many messages it was shown."""
    await trio.lowlevel.checkpoint()
    return Reply(content=f"{len(request.history.messages)}", cost_usd=0.5)


class House:
    """A runtime that can be started anew on what its log has kept."""

    def __init__(self, disk: LogDisk, lives: trio.Nursery) -> None:
        self._disk = disk
        self._lives = lives
        self.model = FakeModel(numbers)
        self.runtime: Runtime

    async def start(self) -> None:
        self._over, self._ended = trio.Event(), trio.Event()
        self.runtime = await self._lives.start(self._house)

    async def _house(self, task_status: trio.TaskStatus[Runtime]) -> None:
        log = await self._disk.open()
        async with Runtime(self.model, Looks(), log=log) as runtime:
            runtime.add_agent(Agent(name="walrus"))
            await runtime.recover()
            task_status.started(runtime)
            await self._over.wait()
        await log.aclose()
        self._ended.set()

    async def stop(self) -> None:
        self._over.set()
        await self._ended.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def talk(self, *texts: str, session: int | None = None) -> int:
        session = session or await self.runtime.create_session("walrus", "me", title="on walruses")
        for text in texts:
            await self.runtime.send_to(session, text)
        return session

    async def texts(self, session: int) -> list[str]:
        """What the model sees of what was said."""
        messages = await self.runtime.branches.history(session)
        return [str(message.content) for message in messages if not isinstance(message, ToolOutput)]


@pytest.fixture
async def house(disk: LogDisk, nursery: trio.Nursery) -> AsyncIterator[House]:
    house = House(disk, nursery)
    await house.start()
    yield house
    await house.stop()


async def refused(asked: Awaitable[object]) -> str:
    with pytest.raises(Problem) as problem:
        await asked
    assert problem.value.hint
    return problem.value.kind


async def test_a_fork_goes_on_from_the_parents_end_and_neither_disturbs_the_other(house: House) -> None:
    parent = await house.talk("one", "two")
    assert await house.runtime.branches.fork(parent, created_by="me too") == Forked(session=2, at=1 + 2 * ONE_TURN)
    await house.talk("three", session=parent)
    await house.talk("drei", session=2)
    assert await house.texts(2) == ["one", "1", "two", "3", "drei", "5"]
    assert await house.texts(parent) == ["one", "1", "two", "3", "three", "5"]
    info = await house.runtime.session(2)
    assert (info.agent, info.title, info.created_by) == ("walrus", "on walruses", "me too")
    assert (info.parent, info.messages, info.last_seq, info.cost_usd) == (ParentInfo(session=1, seq=7), 6, 4, 0.5)


async def test_the_log_of_a_fork_is_its_own(house: House) -> None:
    await house.runtime.branches.fork(await house.talk("one"))
    turn = await (await house.runtime.send(2, Incoming(content="more"))).outcome()
    assert (turn.turn, turn.first_seq, turn.last_seq) == (1, 2, 4)
    rows = await house.runtime.log.events(2, 0, 100)
    created = decode_row(rows[0].body)
    assert isinstance(created, SessionCreated)
    assert (created.parent, len(rows)) == (Parent(session=1, seq=4, messages=2), 4)


async def test_a_fork_may_begin_anywhere_and_says_where_it_did(house: House) -> None:
    house.model.speak = in_turn(calls(LOOK), says("blue"))
    session = await house.talk("what colour?")
    house.model.speak = numbers
    asked: list[Message] = [User("what colour?")]
    looked: list[Message] = [*asked, Assistant(calls=(LOOK,)), ToolOutput(call_id="c1", name="look", output="blue")]
    answered: list[Message] = [*looked, Assistant(content="blue")]
    begins: dict[int, tuple[int, list[Message]]] = {
        1: (1, []),
        **dict.fromkeys(range(2, 7), (2, asked)),
        7: (7, looked),
        8: (8, answered),
        9: (9, answered),
    }
    assert (await house.runtime.session(session)).last_seq == 9
    for at, (point, messages) in begins.items():
        forked = await house.runtime.branches.fork(session, at)
        assert forked.at == point
        assert await house.runtime.branches.history(forked.session) == messages
        said = sum(not isinstance(message, ToolOutput) for message in messages)
        assert (await house.runtime.session(forked.session)).messages == said


async def test_a_closed_session_is_forked_and_a_fork_outlives_the_close_of_its_parent(house: House) -> None:
    parent = await house.talk("one")
    before = (await house.runtime.branches.fork(parent)).session
    await house.runtime.close_session(parent)
    after = (await house.runtime.branches.fork(parent)).session
    await house.restart()
    for child in (before, after):
        await house.talk("two", session=child)
        assert await house.texts(child) == ["one", "1", "two", "3"]


async def test_a_fork_of_a_fork_of_a_rewound_session_has_what_each_of_them_saw(house: House) -> None:
    first = await house.talk("one", "two", "three")
    await house.runtime.branches.rewind(first, 4)
    await house.talk("zwei", session=first)
    second = (await house.runtime.branches.fork(first)).session
    await house.talk("drei", session=second)
    await house.runtime.branches.rewind(first, 1)
    await house.runtime.branches.rewind(second, 1)
    await house.talk("trois", session=second)
    third = (await house.runtime.branches.fork(second)).session
    of_the_past = (await house.runtime.branches.fork(second, 4)).session
    before_the_rewind = (await house.runtime.branches.fork(first, 10)).session
    for _ in range(2):
        assert await house.texts(first) == []
        assert await house.texts(third) == ["one", "1", "zwei", "3", "trois", "5"]
        assert await house.texts(of_the_past) == ["one", "1", "zwei", "3", "drei", "5"]
        assert await house.texts(before_the_rewind) == ["one", "1", "two", "3", "three", "5"]
        for session, messages in ((first, 0), (third, 6), (of_the_past, 6), (before_the_rewind, 6)):
            assert (await house.runtime.session(session)).messages == messages
        await house.restart()


async def test_a_chain_of_forks_of_any_depth_is_read(house: House) -> None:
    session, said = await house.talk("0"), ["0", "1"]
    for number in range(1, 60):
        session = (await house.runtime.branches.fork(session)).session
        if number % 3 == 0:
            await house.talk(str(number), session=session)
            said += [str(number), str(len(said) + 1)]
    await house.restart()
    assert await house.texts(session) == said


async def test_a_rewind_goes_back_and_what_was_spent_stays_spent(house: House) -> None:
    session = await house.talk("one", "two", "three")
    before = await house.runtime.session(session)
    assert await house.runtime.branches.rewind(session, 4) == WentBack(last_seq=11, to=4)
    after = await house.runtime.session(session)
    assert (after.messages, after.cost_usd, after.usage, after.state) == (2, before.cost_usd, before.usage, "idle")
    turn = await (await house.runtime.send(session, Incoming(content="zwei"))).outcome()
    assert turn.turn == 4
    assert house.model.asked[-1] == [User("one"), Assistant(content="1"), User("zwei")]


async def test_a_rewind_can_be_rewound(house: House) -> None:
    session = await house.talk("one", "two")
    await house.runtime.branches.rewind(session, 1)
    await house.talk("eins", session=session)
    assert await house.texts(session) == ["eins", "1"]
    assert await house.runtime.branches.rewind(session, 7) == WentBack(last_seq=12, to=7)
    assert await house.texts(session) == ["one", "1", "two", "3"]
    await house.restart()
    await house.runtime.branches.rewind(session, 11)
    assert await house.texts(session) == ["eins", "1"]


async def test_a_rewind_into_a_round_ends_before_its_calls(house: House) -> None:
    house.model.speak = in_turn(calls(LOOK), says("blue"))
    session = await house.talk("what colour?")
    assert await house.runtime.branches.rewind(session, 5) == WentBack(last_seq=10, to=2)
    assert await house.runtime.branches.history(session) == [User("what colour?")]


async def test_a_key_is_good_for_one_message_over_rewinds_and_restarts(house: House) -> None:
    session = await house.talk()
    first = await (await house.runtime.send(session, Incoming(content="one", key="k"))).outcome()
    await house.runtime.branches.rewind(session, 1)
    for _ in range(2):
        assert await (await house.runtime.send(session, Incoming(content="one", key="k"))).outcome() == first
        assert await refused(house.runtime.send(session, Incoming(content="two", key="k"))) == "key_reused"
        await house.restart()
    assert len(house.model.asked) == 1


async def test_a_session_that_failed_can_be_rewound(house: House) -> None:
    session = await house.talk("one")
    house.model.speak = fails(RuntimeError("a bug"))
    await house.talk("two", session=session)
    await house.runtime.branches.rewind(session, 4)
    assert (await house.runtime.session(session)).state == "error"
    house.model.speak = numbers
    await house.talk("zwei", session=session)
    assert await house.texts(session) == ["one", "1", "zwei", "3"]


async def test_a_session_that_runs_is_not_rewound_but_can_be_forked_and_marked(house: House) -> None:
    gate = Gate()
    house.model.speak = in_turn(calls(LOOK), gate)
    session = await house.talk()
    ticket = await house.runtime.send(session, Incoming(content="one"))
    await gate.reached.wait()
    branches = house.runtime.branches
    assert await refused(branches.rewind(session, 1)) == "session_busy"
    assert await branches.fork(session) == Forked(session=2, at=7)
    assert await branches.checkpoint(session, "here") == CheckpointMade(at=7)
    gate.opened.set()
    await ticket.outcome()
    assert (await branches.history(2))[-1] == ToolOutput(call_id="c1", name="look", output="blue")


async def test_what_cannot_be_is_refused(house: House) -> None:
    branches = house.runtime.branches
    for asked in (branches.fork(9), branches.rewind(9, 1), branches.checkpoint(9, "x"), branches.checkpoints(9)):
        assert await refused(asked) == "session_not_found"
    session = await house.talk("one")
    assert await refused(branches.fork(session, 5)) == "offset_in_future"
    assert await refused(branches.rewind(session, 5)) == "offset_in_future"
    assert await refused(branches.checkpoint(session, "42")) == "invalid_params"
    await house.runtime.close_session(session)
    assert await refused(branches.rewind(session, 1)) == "session_closed"
    assert await refused(branches.checkpoint(session, "x")) == "session_closed"
    await house.runtime.stop(grace_s=0)
    assert await refused(branches.fork(session)) == "shutting_down"


async def test_a_checkpoints_name_moves_when_it_is_used_again_and_none_is_inherited(house: House) -> None:
    branches, session = house.runtime.branches, await house.talk("one")
    assert await branches.checkpoint(session, "start") == CheckpointMade(at=4)
    assert await branches.checkpoint(session, "other") == CheckpointMade(at=5)
    await house.talk("two", session=session)
    assert await branches.checkpoint(session, "start") == CheckpointMade(at=9)
    assert await branches.checkpoints((await branches.fork(session)).session) == []
    for _ in range(2):
        found = await house.runtime.branches.checkpoints(session)
        assert found == [
            Checkpoint(name="other", at=5, seq=6, ts=found[0].ts),
            Checkpoint(name="start", at=9, seq=10, ts=found[1].ts),
        ]
        await house.restart()


async def test_a_message_that_comes_while_a_session_is_rewound_sees_one_of_both_pasts(house: House) -> None:
    before, back = ["one", "1", "two", "3"], ["one", "1"]
    for _ in range(10):
        session, outcomes = await house.talk("one", "two"), list[str]()

        async def rewind(session: int = session, outcomes: list[str] = outcomes) -> None:
            try:
                await house.runtime.branches.rewind(session, 4)
                outcomes.append("rewound")
            except Problem as busy:
                outcomes.append(busy.kind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rewind)
            nursery.start_soon(house.runtime.send_to, session, "three")
        assert (*outcomes, await house.texts(session)) in [
            ("rewound", [*back, "three", "3"]),
            ("rewound", back),  # once the turn had come to its end
            ("session_busy", [*before, "three", "5"]),
        ]
        await house.talk("four", session=session)


async def test_every_step_of_a_story_is_there_after_a_restart(house: House) -> None:
    """Each step is the last one before a restart, and what a session is does not change by it."""
    story: list[Callable[[], Awaitable[object]]] = [
        lambda: house.talk("one", "two"),
        lambda: house.runtime.branches.checkpoint(1, "two"),
        lambda: house.runtime.branches.fork(1),
        lambda: house.runtime.branches.rewind(1, 4),
        lambda: house.talk("zwei", session=1),
        lambda: house.talk("drei", session=2),
        lambda: house.runtime.branches.rewind(2, 1),
        lambda: house.runtime.branches.fork(2),
        lambda: house.runtime.branches.rewind(2, 4),
        lambda: house.talk("vier", session=3),
        lambda: house.runtime.branches.rewind(1, 8),
        lambda: house.runtime.close_session(2),
        lambda: house.runtime.branches.fork(2, 3),
        lambda: house.talk("cinq", session=4),
    ]
    for step in story:
        await step()
        before = await everything(house)
        await house.restart()
        assert await everything(house) == before
    assert [await house.texts(session) for session in range(1, 5)] == [
        ["one", "1", "two", "3"],
        ["one", "1", "two", "3", "drei", "5"],
        ["one", "1", "two", "3", "vier", "5"],
        ["one", "1", "two", "3", "drei", "5", "cinq", "7"],
    ]


async def everything(house: House) -> list[object]:
    """What can be asked of each session."""
    branches = house.runtime.branches
    return [
        (info, await branches.history(info.id), await branches.checkpoints(info.id))
        for info in await house.runtime.sessions(Filter(include_closed=True))
    ]
