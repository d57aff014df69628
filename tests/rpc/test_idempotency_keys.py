"""Tests of idempotency keys: repeats after every ending, concurrent repeats, and unused keys."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.fakes.home import WalrusdProcess
from tests.fakes.provider import Behaviour, FakeProvider, hangs, replies, responds_with
from tests.rpc.raw_client import Json, RawClient, open_raw_client, request
from tests.rpc.test_methods import call_strictly
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.client import RequestFailed
from walrus_protocol.methods import (
    AttachParams,
    CloseParams,
    SendParams,
    SessionParams,
    TurnResult,
)

EndTurnAction = Callable[[AsyncClient, int], Awaitable[object]]


async def let_turn_end(client: AsyncClient, session: int) -> None:
    pass


async def interrupt_turn(client: AsyncClient, session: int) -> None:
    await client.interrupt(SessionParams(session=session))


async def wait_model_requests(provider: FakeProvider, count: int = 1) -> None:
    await provider.wait_until(lambda fake: len(fake.requests) == count)


async def wait_queued(client: AsyncClient, session: int) -> None:
    """Waits until a message is queued in the session."""
    async with client.attach(AttachParams(session=session)) as events:
        while not (await client.session(SessionParams(session=session))).queued:
            await anext(events)


async def error_kind(request: Awaitable[object]) -> str:
    with pytest.raises(RequestFailed) as refused:
        await request
    return refused.value.kind


@pytest.mark.parametrize(
    ("behaviour", "end", "timeout_s", "ended"),
    [
        pytest.param(replies("yes"), let_turn_end, None, ("text_response", None), id="an answer"),
        pytest.param(responds_with(402), let_turn_end, None, ("error", "provider_quota"), id="an error"),
        pytest.param(hangs("so"), interrupt_turn, None, ("interrupted", None), id="an interrupt"),
        pytest.param(hangs("so"), let_turn_end, 0.3, ("interrupted", "timeout"), id="a timeout"),
    ],
)
async def test_a_repeated_key_returns_the_first_result_whatever_happened_since(
    client: AsyncClient,
    raw_client: RawClient,
    provider: FakeProvider,
    session: int,
    behaviour: Behaviour,
    end: EndTurnAction,
    timeout_s: float | None,
    ended: tuple[str, str | None],
) -> None:
    provider.enqueue(behaviour)
    keyed = SendParams(session=session, content="hi", key="k", timeout_s=timeout_s)
    first: list[TurnResult] = []

    async def send() -> None:
        first.append(await client.send(keyed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_model_requests(provider)
        await end(client, session)
    [result] = first
    assert (result.stop_reason, result.error and result.error.kind) == ended
    assert await client.send(keyed) == result
    await call_strictly(raw_client, "session.rewind", {"session": session, "to": 1})
    assert await client.send(keyed) == result, "even if the turn was rewound"
    child = (await call_strictly(raw_client, "session.fork", {"session": session, "at": result.last_seq}))["session"]
    await client.close(CloseParams(session=session))
    assert await client.send(keyed) == result, "a repeat is not a new message, so a closed session accepts it"
    async with client.stream(keyed) as events:
        seqs = [event.seq async for event in events]
        assert (seqs, events.result) == ([*range(result.first_seq, result.last_seq + 1)], result)
    assert await error_kind(client.send(SendParams(session=session, content="ho", key="k"))) == "key_reused"
    assert await error_kind(client.send(SendParams(session=session, content="hi", key="new"))) == "session_closed"
    assert len(provider.requests) == 1
    provider.enqueue(replies("in the fork"))
    again = await client.send(SendParams(session=child, content="ho", key="k"))
    assert (again.session, again.turn, again.text) == (child, 1, "in the fork"), "a fork has its own keys"


@pytest.mark.parametrize("queued", [False, True], ids=["running", "queued"])
@pytest.mark.parametrize(
    "methods", [("send", "send"), ("send", "stream"), ("stream", "send"), ("stream", "stream")], ids="-".join
)
async def test_concurrent_requests_with_one_key_share_a_turn_with_its_events_and_result(
    daemon: WalrusdProcess,
    client: AsyncClient,
    provider: FakeProvider,
    session: int,
    methods: tuple[str, str],
    *,
    queued: bool,
) -> None:
    before, gate = trio.Event(), trio.Event()
    if queued:
        provider.enqueue(replies(["first"], gate=before))
    provider.enqueue(replies(["Hel", "lo"], gate=gate))
    answers: list[tuple[list[Json], Json]] = []

    async def send(method: str) -> None:
        async with open_raw_client(daemon.socket) as own_client:
            await own_client.send_request(f"session.{method}", {"session": session, "content": "hi", "key": "k"})
            events, answer = await own_client.receive_events()
            answers.append((events, answer["result"]))

    async with trio.open_nursery() as nursery:
        if queued:
            nursery.start_soon(client.send, SendParams(session=session, content="first"))
            await wait_model_requests(provider)
        for method in methods:
            nursery.start_soon(send, method)
        if queued:
            await wait_queued(client, session)
            before.set()
        await wait_model_requests(provider, 1 + queued)
        gate.set()
    results = [result for _, result in answers]
    assert results == results[:1] * 2
    assert (results[0]["turn"], results[0]["text"]) == (1 + queued, "Hello")
    streams = [[event for event in events if event["type"] != "message_queued"] for events, _ in answers if events]
    assert len(streams) == methods.count("stream")
    for events in streams:
        logged = [event["type"] for event in events if "live" not in event]
        assert logged == ["user_message", "assistant_message", "done"]
        assert "".join(event["text"] for event in events if event["type"] == "text_delta") == "Hello"
        assert {event["turn"] for event in events} == {1 + queued}
    assert len(provider.requests) == 1 + queued


@pytest.mark.parametrize("when_busy", ["queue", "steer", "interrupt", "reject"])
@pytest.mark.parametrize("queued", [False, True], ids=["running", "queued"])
async def test_the_first_of_two_requests_with_one_key_decides_when_busy(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int, when_busy: str, *, queued: bool
) -> None:
    gate = trio.Event()
    provider.enqueue(replies(["one"], gate=gate), replies("two"))
    if queued:
        await raw_client.send_request("session.send", {"session": session, "content": "1"}, id="before")
        await wait_model_requests(provider)
    keyed = {"session": session, "content": "2", "key": "k"}
    await raw_client.send_request("session.send", keyed, id="first")
    await (wait_queued(client, session) if queued else wait_model_requests(provider))
    await raw_client.send_request("session.send", {**keyed, "when_busy": when_busy}, id="repeat")
    assert await error_kind(client.send(SendParams(session=session, content="other", key="k"))) == "key_reused"
    assert (await raw_client.call("session.get", {"session": session}, id="get"))["result"]["queued"] == int(queued)
    gate.set()
    results = {answer["id"]: answer["result"] for answer in [await raw_client.receive() for _ in range(2 + queued)]}
    assert results["first"] == results["repeat"]
    ended = {name: (turn["turn"], turn["stop_reason"]) for name, turn in results.items()}
    turn = 1 + queued
    before = {"before": (1, "text_response")} if queued else {}
    assert ended == {**before, "first": (turn, "text_response"), "repeat": (turn, "text_response")}


@pytest.mark.parametrize("leave", ["cancel", "disconnect"])
@pytest.mark.parametrize("method", ["session.send", "session.stream"])
async def test_a_repeat_on_another_connection_gets_the_turn_that_was_started(
    daemon: WalrusdProcess, client: AsyncClient, provider: FakeProvider, session: int, method: str, leave: str
) -> None:
    gate = trio.Event()
    provider.enqueue(replies(["all the same"], gate=gate))
    keyed = {"session": session, "content": "hi", "key": "k"}
    async with open_raw_client(daemon.socket) as leaving:
        await leaving.send_request(method, keyed, id=7)
        await wait_model_requests(provider)
        if leave == "cancel":
            await leaving.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": 7}})
            _, answer = await leaving.receive_events()
            assert (answer["error"]["code"], answer["error"]["data"]["kind"]) == (-32010, "cancelled")
    async with open_raw_client(daemon.socket) as repeating:
        await repeating.send_request(method, keyed)
        gate.set()
        _, answer = await repeating.receive_events()
    assert (answer["result"]["turn"], answer["result"]["text"]) == (1, "all the same")
    assert len(provider.requests) == 1


async def test_a_queued_message_whose_client_disconnected_still_runs(
    daemon: WalrusdProcess, client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies(["one"], gate=gate), replies("two"))
    await raw_client.send_request("session.send", {"session": session, "content": "1"}, id="before")
    await wait_model_requests(provider)
    async with open_raw_client(daemon.socket) as leaving:
        await leaving.send_request("session.stream", {"session": session, "content": "2", "key": "k"})
        assert (await leaving.receive())["params"]["event"]["type"] == "message_queued"
    gate.set()
    assert (await raw_client.receive())["result"]["text"] == "one"
    again = await client.send(SendParams(session=session, content="2", key="k"))
    assert (again.turn, again.text) == (2, "two")


async def test_a_message_that_a_full_inbox_refuses_does_not_use_its_key(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.set_default(replies(["yes"], gate=gate))
    await raw_client.send(
        *(request("session.send", {"session": session, "content": f"{n}"}, f"m{n}") for n in range(65))
    )
    full = SendParams(session=session, content="one too many", key="k")
    for when_busy in ("queue", "steer", "interrupt"):
        refusal = await raw_client.call(
            "session.send", {"session": session, "content": "x", "key": "k", "when_busy": when_busy}
        )
        assert refusal["error"]["data"]["kind"] == "inbox_full"
    assert (await client.session(SessionParams(session=session))).state == "processing", "nothing was interrupted"
    gate.set()
    answers = [await raw_client.receive() for _ in range(65)]
    assert {answer["result"]["turn"] for answer in answers} == {*range(1, 66)}
    assert (await client.send(full)).turn == 66


async def test_agent_run_takes_no_key_because_its_session_is_always_new(raw_client: RawClient) -> None:
    error = (await raw_client.call("agent.run", {"agent": "echo", "content": "hi", "key": "k"}))["error"]
    assert (error["code"], "key" in error["message"]) == (-32602, True)
