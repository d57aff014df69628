"""session.interrupt and session.close over the wire, wherever they meet a turn: it ends at once, once, and whole."""

import random

import pytest
import trio

from tests.fakes.home import Walrusd
from tests.fakes.provider import Behaviour, FakeProvider, calls, hangs, says
from tests.fakes.validators import openai_complaints
from tests.rpc.raw import Json, Raw, raw, request
from tests.rpc.test_methods import answered, new_session
from walrus_protocol.aclient import Client
from walrus_protocol.methods import Interrupted, SendParams, SessionParams

ROUND = ["assistant_message", "tool_calls_start", "tool_result", "tool_calls_complete"]
"""Facts of a round whose one call is refused: of a call that runs there would be a `tool_started`, too."""

MODES = ("queue", "steer", "interrupt", "reject")


async def log_of(line: Raw, session: int) -> list[Json]:
    await line.ask("session.attach", {"session": session, "follow": False}, id="log")
    return (await line.events())[0]


async def asked(provider: FakeProvider, count: int = 1) -> None:
    await provider.until(lambda fake: len(fake.requests) == count)


@pytest.mark.parametrize(
    ("behaviours", "round_before", "text"),
    [
        pytest.param([hangs()], [], "", id="before the first byte"),
        pytest.param([hangs("Half a")], [], "Half a", id="in mid-stream"),
        pytest.param([hangs("I look", in_call="read")], [], "I look", id="in a call's arguments"),
        pytest.param([hangs(in_call="read")], [], "", id="in the arguments of a call alone"),
        pytest.param([calls(("bash", {"command": "true"})), hangs()], ROUND, "", id="between rounds"),
    ],
)
async def test_an_interrupted_turn_hangs_up_on_the_model_ends_once_and_leaves_a_conversation_that_can_go_on(
    client: Client,
    line: Raw,
    provider: FakeProvider,
    session: int,
    behaviours: list[Behaviour],
    round_before: list[str],
    text: str,
) -> None:
    provider.will(*behaviours)
    await line.ask("session.stream", {"session": session, "content": "go"}, id="turn")
    await asked(provider, len(behaviours))
    while text and (await line.receive())["params"]["event"]["type"] != "text_delta":
        pass
    assert await client.interrupt(SessionParams(session=session)) == Interrupted(interrupted=True, turn=1)
    await provider.until(lambda fake: fake.gone == 1)
    _, answer = await line.events()
    result = answer["result"]
    assert (result["stop_reason"], result["error"], result["text"]) == ("interrupted", None, text)
    log = await log_of(line, session)
    assert [event["type"] for event in log[2:]] == [*round_before, "interrupt_requested", "assistant_message", "done"]
    assert (log[-2]["finish"], log[-2]["content"], log[-2]["calls"]) == ("interrupted", text, [])
    provider.will(says("on we go"))
    assert (await client.send(SendParams(session=session, content="again"))).text == "on we go"
    assert openai_complaints(provider.requests[-1].messages) == []


async def test_after_an_interrupt_what_is_queued_runs(
    client: Client, line: Raw, provider: FakeProvider, session: int
) -> None:
    provider.will(hangs("so"), says("two"), says("three"))
    await line.send(*(request("session.send", {"session": session, "content": n}, n) for n in "123"))
    await asked(provider)
    assert await client.interrupt(SessionParams(session=session)) == Interrupted(interrupted=True, turn=1)
    results = {answer["id"]: answer["result"] for answer in [await line.receive() for _ in range(3)]}
    assert {n: (turn["turn"], turn["text"]) for n, turn in results.items()} == {
        "1": (1, "so"),
        "2": (2, "two"),
        "3": (3, "three"),
    }


@pytest.mark.parametrize("method", ["session.interrupt", "session.close"])
async def test_what_never_was_is_neither_interrupted_nor_closed(line: Raw, method: str) -> None:
    error = (await line.call(method, {"session": 999_999}))["error"]
    assert (error["code"], error["data"]["kind"]) == (-32004, "session_not_found")


async def test_whoever_interrupts_and_closes_at_once_a_turn_ends_once_and_each_is_answered(
    daemon: Walrusd, line: Raw, provider: FakeProvider
) -> None:
    provider.always(hangs("so"))
    for _ in range(10):
        session = (await answered(line, "session.create", {"agent": "told"}))["session"]
        before = len(provider.requests)
        await line.send(*(request("session.send", {"session": session, "content": text}, text) for text in "12"))
        await asked(provider, before + 1)
        told: list[Json] = []

        async def ask(method: str, params: Json, told: list[Json] = told) -> None:
            async with raw(daemon.socket) as other:
                told.append((await other.call(method, params))["result"])

        async with trio.open_nursery() as nursery:
            for force in (True, False):
                nursery.start_soon(ask, "session.close", {"session": session, "force": force})
                nursery.start_soon(ask, "session.interrupt", {"session": session})
        assert {"closed": True} in told
        assert all(answer.get("turn") in {None, 1, 2} for answer in told)
        ended = {answer["id"]: answer["result"]["stop_reason"] for answer in [await line.receive() for _ in "12"]}
        assert ended == {"1": "interrupted", "2": "interrupted"}
        log = await log_of(line, session)
        assert [event["turn"] for event in log if event["type"] == "done"] == [1, 2]
        assert log[-1]["type"] == "session_closed"


@pytest.mark.parametrize("method", ["session.send", "session.stream", "agent.run"])
async def test_a_turn_that_is_given_a_time_ends_with_it_whatever_began_it(
    line: Raw, provider: FakeProvider, session: int, method: str
) -> None:
    provider.will(hangs("so far"))
    where = {"agent": "told"} if method == "agent.run" else {"session": session}
    result = (await line.call(method, {**where, "content": "go", "timeout_s": 0.2}))["result"]
    assert (result["stop_reason"], result["error"]["kind"], result["text"]) == ("interrupted", "timeout", "so far")
    await provider.until(lambda fake: fake.gone == 1)
    requested = [event["reason"] for event in await log_of(line, result["session"]) if "reason" in event]
    assert requested == ["timeout"]


async def test_a_streamed_steer_is_shown_from_its_own_message_on_and_its_repeat_the_whole_turn(
    daemon: Walrusd, line: Raw, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.will(says(["one"], gate=gate), says("two, as you say"))
    await line.ask("session.send", {"session": session, "content": "go"}, id="turn")
    await asked(provider)
    steer = {"session": session, "content": "no, two", "when_busy": "steer", "key": "k"}
    async with raw(daemon.socket) as steering:
        await steering.ask("session.stream", steer)
        told = (await steering.receive())["params"]["event"]
        assert (told["type"], told["kind"], told["position"]) == ("message_queued", "steer", 1)
        gate.set()
        events, answer = await steering.events()
        facts = [event for event in events if "live" not in event]
        assert [event["type"] for event in facts] == ["user_message", "assistant_message", "done"]
        assert (facts[0]["kind"], facts[0]["content"]) == ("steer", "no, two")
        assert answer["result"] == (await line.receive())["result"]
        await steering.ask("session.stream", steer)
        again, same = await steering.events()
    assert same["result"] == answer["result"]
    assert again == (await log_of(line, session))[1:]


async def test_a_resume_and_the_message_behind_it_are_taken_in_the_order_in_which_they_were_sent(line: Raw) -> None:
    sessions = [await new_session(line) for _ in range(20)]
    for session in sessions:
        await line.send(
            request("session.resume", {"session": session}, "resume"),
            request("session.send", {"session": session, "content": "hi"}, "send"),
        )
        answers = {answer["id"]: answer for answer in [await line.receive() for _ in range(2)]}
        assert {name: answer["result"]["turn"] for name, answer in answers.items()} == {"resume": 1, "send": 2}


async def test_a_session_rests_when_nothing_waits_any_more(
    client: Client, line: Raw, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.will(says("one"), says("two"), says(["three"], gate=gate))
    await line.send(*(request("session.send", {"session": session, "content": n}, n) for n in "123"))
    await asked(provider, 3)
    await line.ask("session.wait", {"session": session, "states": ["idle"]}, id="rest")
    answers = [await line.receive() for _ in range(2)]
    gate.set()
    answers += [await line.receive() for _ in range(2)]
    assert {answer["id"] for answer in answers[:2]} == {"1", "2"}
    assert {answer["id"]: answer["result"] for answer in answers[2:]}["rest"] == {"state": "idle"}


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_that_is_sent_while_others_interrupt_steer_and_reject_is_swallowed(
    daemon: Walrusd, line: Raw, provider: FakeProvider, seed: int
) -> None:
    provider.always(says(["so ", "far"], apart=True))
    session = (await answered(line, "session.create", {"agent": "told"}))["session"]
    fates: dict[str, Json] = {}

    async def send(name: str) -> None:
        dice = random.Random(f"{seed} {name}")
        async with raw(daemon.socket) as own:
            for n in range(15):
                content = f"{name}{n}"
                params = {"session": session, "content": content, "when_busy": dice.choice(MODES)}
                fates[content] = await own.call(dice.choice(["session.send", "session.stream"]), params)
                if dice.random() < 0.2:
                    await own.call("session.interrupt", {"session": session})

    async with trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(send, name)
    await answered(line, "session.close", {"session": session})
    log = await log_of(line, session)
    heard = {event["content"]: event["turn"] for event in log if event["type"] == "user_message"}
    turns = {content: fate["result"]["turn"] for content, fate in fates.items() if "result" in fate}
    assert heard == turns, "what was accepted is there, and was answered by the turn in which it is"
    refused = {fate["error"]["data"]["kind"] for fate in fates.values() if "error" in fate}
    assert refused <= {"session_busy"}
    assert len([event for event in log if event["type"] == "user_message"]) == len(heard)
    assert [event["turn"] for event in log if event["type"] == "done"] == [*range(1, max(heard.values()) + 1)]
    for request_ in provider.requests:
        assert openai_complaints(request_.messages) == []
