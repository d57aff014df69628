"""Tests of session.interrupt and session.close at every stage of a turn: it ends immediately and once."""

import random

import pytest
import trio

from tests.fakes.home import WalrusdProcess
from tests.fakes.provider import Behaviour, FakeProvider, calls_tools, hangs, replies
from tests.fakes.validators import openai_violations
from tests.rpc.raw_client import Json, RawClient, open_raw_client, request
from tests.rpc.test_methods import call_strictly, new_session
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.methods import InterruptResult, SendParams, SessionParams

ROUND = ["assistant_message", "tool_calls_start", "tool_result", "tool_calls_complete"]
"""The events of a round whose one call is refused; a call that runs has a `tool_started` too."""

MODES = ("queue", "steer", "interrupt", "reject")


async def session_log(raw_client: RawClient, session: int) -> list[Json]:
    await raw_client.send_request("session.attach", {"session": session, "follow": False}, id="log")
    return (await raw_client.receive_events())[0]


async def wait_model_requests(provider: FakeProvider, count: int = 1) -> None:
    await provider.wait_until(lambda fake: len(fake.requests) == count)


@pytest.mark.parametrize(
    ("behaviours", "round_before", "text"),
    [
        pytest.param([hangs()], [], "", id="before the first byte"),
        pytest.param([hangs("Half a")], [], "Half a", id="in mid-stream"),
        pytest.param([hangs("I look", in_call="read")], [], "I look", id="in a call's arguments"),
        pytest.param([hangs(in_call="read")], [], "", id="in the arguments of a call alone"),
        pytest.param([calls_tools(("bash", {"command": "true"})), hangs()], ROUND, "", id="between rounds"),
    ],
)
async def test_an_interrupted_turn_drops_the_model_ends_once_and_the_session_continues(
    client: AsyncClient,
    raw_client: RawClient,
    provider: FakeProvider,
    session: int,
    behaviours: list[Behaviour],
    round_before: list[str],
    text: str,
) -> None:
    provider.enqueue(*behaviours)
    await raw_client.send_request("session.stream", {"session": session, "content": "go"}, id="turn")
    await wait_model_requests(provider, len(behaviours))
    while text and (await raw_client.receive())["params"]["event"]["type"] != "text_delta":
        pass
    assert await client.interrupt(SessionParams(session=session)) == InterruptResult(interrupted=True, turn=1)
    await provider.wait_until(lambda fake: fake.disconnects == 1)
    _, answer = await raw_client.receive_events()
    result = answer["result"]
    assert (result["stop_reason"], result["error"], result["text"]) == ("interrupted", None, text)
    log = await session_log(raw_client, session)
    assert [event["type"] for event in log[2:]] == [*round_before, "interrupt_requested", "assistant_message", "done"]
    assert (log[-2]["finish"], log[-2]["content"], log[-2]["calls"]) == ("interrupted", text, [])
    provider.enqueue(replies("on we go"))
    assert (await client.send(SendParams(session=session, content="again"))).text == "on we go"
    assert openai_violations(provider.requests[-1].messages) == []


async def test_queued_messages_run_after_an_interrupt(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(hangs("so"), replies("two"), replies("three"))
    await raw_client.send(*(request("session.send", {"session": session, "content": n}, n) for n in "123"))
    await wait_model_requests(provider)
    assert await client.interrupt(SessionParams(session=session)) == InterruptResult(interrupted=True, turn=1)
    results = {answer["id"]: answer["result"] for answer in [await raw_client.receive() for _ in range(3)]}
    assert {n: (turn["turn"], turn["text"]) for n, turn in results.items()} == {
        "1": (1, "so"),
        "2": (2, "two"),
        "3": (3, "three"),
    }


@pytest.mark.parametrize("method", ["session.interrupt", "session.close"])
async def test_an_unknown_session_can_be_neither_interrupted_nor_closed(raw_client: RawClient, method: str) -> None:
    error = (await raw_client.call(method, {"session": 999_999}))["error"]
    assert (error["code"], error["data"]["kind"]) == (-32004, "session_not_found")


async def test_concurrent_interrupts_and_closes_end_a_turn_once_and_are_all_answered(
    daemon: WalrusdProcess, raw_client: RawClient, provider: FakeProvider
) -> None:
    provider.set_default(hangs("so"))
    for _ in range(10):
        session = (await call_strictly(raw_client, "session.create", {"agent": "fake"}))["session"]
        before = len(provider.requests)
        await raw_client.send(*(request("session.send", {"session": session, "content": text}, text) for text in "12"))
        await wait_model_requests(provider, before + 1)
        answers: list[Json] = []

        async def call(method: str, params: Json, answers: list[Json] = answers) -> None:
            async with open_raw_client(daemon.socket) as other:
                answers.append((await other.call(method, params))["result"])

        async with trio.open_nursery() as nursery:
            for force in (True, False):
                nursery.start_soon(call, "session.close", {"session": session, "force": force})
                nursery.start_soon(call, "session.interrupt", {"session": session})
        assert {"closed": True} in answers
        assert all(answer.get("turn") in {None, 1, 2} for answer in answers)
        ended = {answer["id"]: answer["result"]["stop_reason"] for answer in [await raw_client.receive() for _ in "12"]}
        assert ended == {"1": "interrupted", "2": "interrupted"}
        log = await session_log(raw_client, session)
        assert [event["turn"] for event in log if event["type"] == "done"] == [1, 2]
        assert log[-1]["type"] == "session_closed"


@pytest.mark.parametrize("method", ["session.send", "session.stream", "agent.run"])
async def test_timeout_s_ends_a_turn_whichever_method_started_it(
    raw_client: RawClient, provider: FakeProvider, session: int, method: str
) -> None:
    provider.enqueue(hangs("so far"))
    target = {"agent": "fake"} if method == "agent.run" else {"session": session}
    result = (await raw_client.call(method, {**target, "content": "go", "timeout_s": 0.2}))["result"]
    assert (result["stop_reason"], result["error"]["kind"], result["text"]) == ("interrupted", "timeout", "so far")
    await provider.wait_until(lambda fake: fake.disconnects == 1)
    requested = [event["reason"] for event in await session_log(raw_client, result["session"]) if "reason" in event]
    assert requested == ["timeout"]


async def test_a_streamed_steer_begins_at_its_message_and_a_repeat_at_its_turn(
    daemon: WalrusdProcess, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies(["one"], gate=gate), replies("two, as you say"))
    await raw_client.send_request("session.send", {"session": session, "content": "go"}, id="turn")
    await wait_model_requests(provider)
    steer = {"session": session, "content": "no, two", "when_busy": "steer", "key": "k"}
    async with open_raw_client(daemon.socket) as steering:
        await steering.send_request("session.stream", steer)
        queued = (await steering.receive())["params"]["event"]
        assert (queued["type"], queued["kind"], queued["position"]) == ("message_queued", "steer", 1)
        gate.set()
        events, answer = await steering.receive_events()
        logged = [event for event in events if "live" not in event]
        assert [event["type"] for event in logged] == ["user_message", "assistant_message", "done"]
        assert (logged[0]["kind"], logged[0]["content"]) == ("steer", "no, two")
        assert answer["result"] == (await raw_client.receive())["result"]
        await steering.send_request("session.stream", steer)
        again, same = await steering.receive_events()
    assert same["result"] == answer["result"]
    assert again == (await session_log(raw_client, session))[1:]


async def test_a_resume_and_the_message_after_it_run_in_the_order_sent(raw_client: RawClient) -> None:
    sessions = [await new_session(raw_client) for _ in range(20)]
    for session in sessions:
        await raw_client.send(
            request("session.resume", {"session": session}, "resume"),
            request("session.send", {"session": session, "content": "hi"}, "send"),
        )
        answers = {answer["id"]: answer for answer in [await raw_client.receive() for _ in range(2)]}
        assert {name: answer["result"]["turn"] for name, answer in answers.items()} == {"resume": 1, "send": 2}


async def test_a_session_is_idle_only_once_its_queue_is_empty(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies("one"), replies("two"), replies(["three"], gate=gate))
    await raw_client.send(*(request("session.send", {"session": session, "content": n}, n) for n in "123"))
    await wait_model_requests(provider, 3)
    await raw_client.send_request("session.wait", {"session": session, "states": ["idle"]}, id="idle")
    answers = [await raw_client.receive() for _ in range(2)]
    gate.set()
    answers += [await raw_client.receive() for _ in range(2)]
    assert {answer["id"] for answer in answers[:2]} == {"1", "2"}
    assert {answer["id"]: answer["result"] for answer in answers[2:]}["idle"] == {"state": "idle"}


@pytest.mark.parametrize("seed", range(3))
async def test_no_message_is_lost_among_concurrent_interrupts_steers_and_rejects(
    daemon: WalrusdProcess, raw_client: RawClient, provider: FakeProvider, seed: int
) -> None:
    provider.set_default(replies(["so ", "far"], separate_writes=True))
    session = (await call_strictly(raw_client, "session.create", {"agent": "fake"}))["session"]
    outcomes: dict[str, Json] = {}

    async def send(name: str) -> None:
        choices = random.Random(f"{seed} {name}")
        async with open_raw_client(daemon.socket) as own_client:
            for n in range(15):
                content = f"{name}{n}"
                params = {"session": session, "content": content, "when_busy": choices.choice(MODES)}
                method = choices.choice(["session.send", "session.stream"])
                outcomes[content] = await own_client.call(method, params)
                if choices.random() < 0.2:
                    await own_client.call("session.interrupt", {"session": session})

    async with trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(send, name)
    await call_strictly(raw_client, "session.close", {"session": session})
    log = await session_log(raw_client, session)
    recorded = {event["content"]: event["turn"] for event in log if event["type"] == "user_message"}
    turns = {content: outcome["result"]["turn"] for content, outcome in outcomes.items() if "result" in outcome}
    assert recorded == turns, "every accepted message is recorded, and answered by the turn in which it is recorded"
    refused = {outcome["error"]["data"]["kind"] for outcome in outcomes.values() if "error" in outcome}
    assert refused <= {"session_busy"}
    assert len([event for event in log if event["type"] == "user_message"]) == len(recorded)
    assert [event["turn"] for event in log if event["type"] == "done"] == [*range(1, max(recorded.values()) + 1)]
    for request_ in provider.requests:
        assert openai_violations(request_.messages) == []
