"""Exactly once by `key` over the wire: repeats of every ending, twins of every kind, and what uses up no key."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.fakes.home import Walrusd
from tests.fakes.provider import Behaviour, FakeProvider, hangs, refuses, says
from tests.rpc.raw import Json, Raw, raw, request
from tests.rpc.test_methods import answered
from walrus_protocol.aclient import Client
from walrus_protocol.client import RequestFailed
from walrus_protocol.methods import (
    AttachParams,
    CloseParams,
    SendParams,
    SessionParams,
    TurnResult,
)

Ends = Callable[[Client, int], Awaitable[object]]


async def by_itself(client: Client, session: int) -> None:
    pass


async def by_hand(client: Client, session: int) -> None:
    await client.interrupt(SessionParams(session=session))


async def asked(provider: FakeProvider, count: int = 1) -> None:
    await provider.until(lambda fake: len(fake.requests) == count)


async def queued(client: Client, session: int) -> None:
    """Wait until a message waits there."""
    async with client.attach(AttachParams(session=session)) as events:
        while not (await client.session(SessionParams(session=session))).queued:
            await anext(events)


async def kind_of(sending: Awaitable[object]) -> str:
    with pytest.raises(RequestFailed) as refused:
        await sending
    return refused.value.kind


@pytest.mark.parametrize(
    ("behaviour", "end", "timeout_s", "ended"),
    [
        pytest.param(says("yes"), by_itself, None, ("text_response", None), id="an answer"),
        pytest.param(refuses(402), by_itself, None, ("error", "provider_quota"), id="an error"),
        pytest.param(hangs("so"), by_hand, None, ("interrupted", None), id="an interrupt"),
        pytest.param(hangs("so"), by_itself, 0.3, ("interrupted", "timeout"), id="a timeout"),
    ],
)
async def test_a_repeat_gives_the_first_result_however_that_was_and_whatever_became_of_the_session(
    client: Client,
    line: Raw,
    provider: FakeProvider,
    session: int,
    behaviour: Behaviour,
    end: Ends,
    timeout_s: float | None,
    ended: tuple[str, str | None],
) -> None:
    provider.will(behaviour)
    keyed = SendParams(session=session, content="hi", key="k", timeout_s=timeout_s)
    first: list[TurnResult] = []

    async def send() -> None:
        first.append(await client.send(keyed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await asked(provider)
        await end(client, session)
    [result] = first
    assert (result.stop_reason, result.error and result.error.kind) == ended
    assert await client.send(keyed) == result
    await answered(line, "session.rewind", {"session": session, "to": 1})
    assert await client.send(keyed) == result, "the turn that was rewound"
    child = (await answered(line, "session.fork", {"session": session, "at": result.last_seq}))["session"]
    await client.close(CloseParams(session=session))
    assert await client.send(keyed) == result, "to repeat is not to send something new"
    async with client.stream(keyed) as events:
        seqs = [event.seq async for event in events]
        assert (seqs, events.result) == ([*range(result.first_seq, result.last_seq + 1)], result)
    assert await kind_of(client.send(SendParams(session=session, content="ho", key="k"))) == "key_reused"
    assert await kind_of(client.send(SendParams(session=session, content="hi", key="new"))) == "session_closed"
    assert len(provider.requests) == 1
    provider.will(says("in the fork"))
    again = await client.send(SendParams(session=child, content="ho", key="k"))
    assert (again.session, again.turn, again.text) == (child, 1, "in the fork"), "its keys are its own"


@pytest.mark.parametrize("waits", [False, True], ids=["running", "queued"])
@pytest.mark.parametrize(
    "methods", [("send", "send"), ("send", "stream"), ("stream", "send"), ("stream", "stream")], ids="-".join
)
async def test_twins_share_a_turn_its_events_and_its_result(
    daemon: Walrusd, client: Client, provider: FakeProvider, session: int, methods: tuple[str, str], *, waits: bool
) -> None:
    before, gate = trio.Event(), trio.Event()
    if waits:
        provider.will(says(["first"], gate=before))
    provider.will(says(["Hel", "lo"], gate=gate))
    told: list[tuple[list[Json], Json]] = []

    async def ask(method: str) -> None:
        async with raw(daemon.socket) as own:
            await own.ask(f"session.{method}", {"session": session, "content": "hi", "key": "k"})
            events, answer = await own.events()
            told.append((events, answer["result"]))

    async with trio.open_nursery() as nursery:
        if waits:
            nursery.start_soon(client.send, SendParams(session=session, content="first"))
            await asked(provider)
        for method in methods:
            nursery.start_soon(ask, method)
        if waits:
            await queued(client, session)
            before.set()
        await asked(provider, 1 + waits)
        gate.set()
    results = [result for _, result in told]
    assert results == results[:1] * 2
    assert (results[0]["turn"], results[0]["text"]) == (1 + waits, "Hello")
    streams = [[event for event in events if event["type"] != "message_queued"] for events, _ in told if events]
    assert len(streams) == methods.count("stream")
    for events in streams:
        facts = [event["type"] for event in events if "live" not in event]
        assert facts == ["user_message", "assistant_message", "done"]
        assert "".join(event["text"] for event in events if event["type"] == "text_delta") == "Hello"
        assert {event["turn"] for event in events} == {1 + waits}
    assert len(provider.requests) == 1 + waits


@pytest.mark.parametrize("when_busy", ["queue", "steer", "interrupt", "reject"])
@pytest.mark.parametrize("waits", [False, True], ids=["running", "queued"])
async def test_of_twins_the_first_says_what_happens_when_the_session_is_busy(
    client: Client, line: Raw, provider: FakeProvider, session: int, when_busy: str, *, waits: bool
) -> None:
    gate = trio.Event()
    provider.will(says(["one"], gate=gate), says("two"))
    if waits:
        await line.ask("session.send", {"session": session, "content": "1"}, id="before")
        await asked(provider)
    keyed = {"session": session, "content": "2", "key": "k"}
    await line.ask("session.send", keyed, id="first")
    await (queued(client, session) if waits else asked(provider))
    await line.ask("session.send", {**keyed, "when_busy": when_busy}, id="twin")
    assert await kind_of(client.send(SendParams(session=session, content="other", key="k"))) == "key_reused"
    assert (await line.call("session.get", {"session": session}, id="get"))["result"]["queued"] == int(waits)
    gate.set()
    results = {answer["id"]: answer["result"] for answer in [await line.receive() for _ in range(2 + waits)]}
    assert results["first"] == results["twin"]
    ended = {name: (turn["turn"], turn["stop_reason"]) for name, turn in results.items()}
    turn = 1 + waits
    before = {"before": (1, "text_response")} if waits else {}
    assert ended == {**before, "first": (turn, "text_response"), "twin": (turn, "text_response")}


@pytest.mark.parametrize("leave", ["cancel", "hang up"])
@pytest.mark.parametrize("method", ["session.send", "session.stream"])
async def test_one_that_leaves_and_repeats_on_another_connection_gets_the_turn_that_it_began(
    daemon: Walrusd, client: Client, provider: FakeProvider, session: int, method: str, leave: str
) -> None:
    gate = trio.Event()
    provider.will(says(["all the same"], gate=gate))
    keyed = {"session": session, "content": "hi", "key": "k"}
    async with raw(daemon.socket) as leaving:
        await leaving.ask(method, keyed, id=7)
        await asked(provider)
        if leave == "cancel":
            await leaving.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": 7}})
            _, answer = await leaving.events()
            assert (answer["error"]["code"], answer["error"]["data"]["kind"]) == (-32010, "cancelled")
    async with raw(daemon.socket) as again:
        await again.ask(method, keyed)
        gate.set()
        _, answer = await again.events()
    assert (answer["result"]["turn"], answer["result"]["text"]) == (1, "all the same")
    assert len(provider.requests) == 1


async def test_a_message_that_is_given_up_while_it_waits_is_answered_in_its_turn(
    daemon: Walrusd, client: Client, line: Raw, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.will(says(["one"], gate=gate), says("two"))
    await line.ask("session.send", {"session": session, "content": "1"}, id="before")
    await asked(provider)
    async with raw(daemon.socket) as leaving:
        await leaving.ask("session.stream", {"session": session, "content": "2", "key": "k"})
        assert (await leaving.receive())["params"]["event"]["type"] == "message_queued"
    gate.set()
    assert (await line.receive())["result"]["text"] == "one"
    again = await client.send(SendParams(session=session, content="2", key="k"))
    assert (again.turn, again.text) == (2, "two")


async def test_a_message_for_which_there_is_no_room_uses_up_no_key(
    client: Client, line: Raw, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.always(says(["yes"], gate=gate))
    await line.send(*(request("session.send", {"session": session, "content": f"{n}"}, f"m{n}") for n in range(65)))
    full = SendParams(session=session, content="one too many", key="k")
    for when_busy in ("queue", "steer", "interrupt"):
        refusal = await line.call(
            "session.send", {"session": session, "content": "x", "key": "k", "when_busy": when_busy}
        )
        assert refusal["error"]["data"]["kind"] == "inbox_full"
    assert (await client.session(SessionParams(session=session))).state == "processing", "nothing was interrupted"
    gate.set()
    answers = [await line.receive() for _ in range(65)]
    assert {answer["result"]["turn"] for answer in answers} == {*range(1, 66)}
    assert (await client.send(full)).turn == 66


async def test_a_run_takes_no_key_for_its_session_is_new_each_time(line: Raw) -> None:
    error = (await line.call("agent.run", {"agent": "echo", "content": "hi", "key": "k"}))["error"]
    assert (error["code"], "key" in error["message"]) == (-32602, True)
