"""Tests of session.send, session.stream and agent.run: order, keys, when_busy, limits and events."""

import pytest
import trio

from tests.fakes.home import WalrusdProcess
from tests.fakes.provider import FakeProvider, calls_tools, hangs, replies
from tests.rpc.raw_client import Json, RawClient, open_raw_client
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.client import RequestFailed
from walrus_protocol.content import Assistant, TurnError, User
from walrus_protocol.events import AnyEvent, NewerEvent
from walrus_protocol.methods import (
    AttachParams,
    CloseParams,
    CreateParams,
    HistoryParams,
    SendParams,
    SessionParams,
    TurnResult,
    WaitParams,
)
from walrusd.session.recovery import CONTINUE_PROMPT


async def wait_model_requests(provider: FakeProvider, count: int = 1) -> None:
    """Waits until the model has received so many requests: the turn is running then."""
    await provider.wait_until(lambda fake: len(fake.requests) == count)


async def wait_queued(client: AsyncClient, session: int, count: int) -> None:
    """Waits until so many messages are queued; an attachment signals each change."""
    async with client.attach(AttachParams(session=session)) as events:
        async for _ in events:
            if (await client.session(SessionParams(session=session))).queued >= count:
                return


class ConcurrentSends:
    """Sends messages concurrently and collects the results of their turns."""

    def __init__(self, client: AsyncClient, session: int, nursery: trio.Nursery) -> None:
        self.results: dict[str, TurnResult] = {}
        self._client = client
        self._session = session
        self._nursery = nursery

    def send(self, content: str, **more: object) -> None:
        self._nursery.start_soon(self._send, SendParams(session=self._session, content=content, **more))  # type: ignore[arg-type]  # the options of SendParams, by name

    async def _send(self, params: SendParams) -> None:
        self.results[str(params.content)] = await self._client.send(params)


async def test_messages_sent_to_a_busy_session_are_answered_in_order(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies("one", gate=[gate]), replies("two"), replies("three"))
    async with trio.open_nursery() as nursery:
        sent = ConcurrentSends(client, session, nursery)
        sent.send("1")
        await wait_model_requests(provider)
        sent.send("2")
        await wait_queued(client, session, 1)
        sent.send("3")
        await wait_queued(client, session, 2)
        gate.set()
    assert {content: (turn.turn, turn.text) for content, turn in sent.results.items()} == {
        "1": (1, "one"),
        "2": (2, "two"),
        "3": (3, "three"),
    }


async def test_reject_refuses_at_once_and_records_nothing(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(hangs("so"))
    async with trio.open_nursery() as nursery:
        sent = ConcurrentSends(client, session, nursery)
        sent.send("1")
        await wait_model_requests(provider)
        error = (await raw_client.call("session.send", {"session": session, "content": "2", "when_busy": "reject"}))[
            "error"
        ]
        assert (error["code"], error["data"]["kind"]) == (-32001, "session_busy")
        assert error["data"]["retry_after_ms"] > 0
        await client.interrupt(SessionParams(session=session))
    provider.enqueue(replies("fine"))
    rejecting = SendParams(session=session, content="3", when_busy="reject")
    assert (await client.send(rejecting)).text == "fine"
    history = await client.history(HistoryParams(session=session))
    assert [message.content for message in history.messages if isinstance(message, User)] == ["1", "3"]


async def test_interrupt_stops_the_turn_and_runs_before_queued_messages(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(hangs("so"), replies("urgent!"), replies("queued"))
    async with trio.open_nursery() as nursery:
        sent = ConcurrentSends(client, session, nursery)
        sent.send("1")
        await wait_model_requests(provider)
        sent.send("2")
        await wait_queued(client, session, 1)
        sent.send("3", when_busy="interrupt")
    assert (sent.results["1"].stop_reason, sent.results["1"].error) == ("interrupted", None)
    assert (sent.results["3"].turn, sent.results["3"].text) == (2, "urgent!")
    assert (sent.results["2"].turn, sent.results["2"].text) == (3, "queued")


async def test_a_steer_joins_the_running_turn_and_shares_its_result(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies("one", gate=[gate]), replies("two, as you say"))
    async with trio.open_nursery() as nursery:
        sent = ConcurrentSends(client, session, nursery)
        sent.send("1")
        await wait_model_requests(provider)
        sent.send("no, 2", when_busy="steer")
        await wait_queued(client, session, 1)
        gate.set()
    assert sent.results["1"] == sent.results["no, 2"]
    assert (sent.results["1"].text, sent.results["1"].turn, sent.results["1"].rounds) == ("two, as you say", 1, 2)
    assert [message["content"] for message in provider.requests[1].messages[-3:]] == ["1", "one", "no, 2"]


async def test_a_steer_of_an_idle_session_is_a_plain_message(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(replies("yes"))
    turn = await client.send(SendParams(session=session, content="1", when_busy="steer"))
    assert (turn.turn, turn.text) == (1, "yes")


async def test_a_full_inbox_refuses_messages_and_accepted_ones_are_answered(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies("first", gate=[gate]))
    provider.set_default(replies("later"))
    async with trio.open_nursery() as nursery:
        sent = ConcurrentSends(client, session, nursery)
        sent.send("first")
        await wait_model_requests(provider)
        for number in range(64):
            sent.send(str(number))
        await wait_queued(client, session, 64)
        error = (await raw_client.call("session.send", {"session": session, "content": "one more"}))["error"]
        assert (error["code"], error["data"]["kind"]) == (-32001, "inbox_full")
        assert error["data"]["retry_after_ms"] > 0
        gate.set()
    assert {turn.turn for turn in sent.results.values()} == set(range(1, 66))
    assert {turn.stop_reason for turn in sent.results.values()} == {"text_response"}


async def test_a_key_sends_once_however_often_it_is_repeated(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(replies("once"))
    keyed = SendParams(session=session, content="hi", key="k")
    first = await client.send(keyed)
    assert [await client.send(keyed) for _ in range(3)] == [first] * 3
    assert len(provider.requests) == 1
    with pytest.raises(RequestFailed) as reused:
        await client.send(SendParams(session=session, content="other", key="k"))
    assert (reused.value.code, reused.value.kind) == (-32005, "key_reused")


async def test_concurrent_sends_with_one_key_share_a_turn(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies("once", gate=[gate]))
    results = []

    async def send() -> None:
        results.append(await client.send(SendParams(session=session, content="hi", key="k")))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(send)
        await wait_model_requests(provider)
        gate.set()
    assert results == results[:1] * 5
    assert len(provider.requests) == 1


async def test_a_refused_send_does_not_use_its_key(client: AsyncClient, provider: FakeProvider, session: int) -> None:
    provider.enqueue(hangs("so"), replies("now"))
    keyed = SendParams(session=session, content="2", key="k", when_busy="reject")
    async with trio.open_nursery() as nursery:
        ConcurrentSends(client, session, nursery).send("1")
        await wait_model_requests(provider)
        with pytest.raises(RequestFailed, match="has a turn under way"):
            await client.send(keyed)
        await client.interrupt(SessionParams(session=session))
    assert (await client.send(keyed)).text == "now"


async def test_a_repeated_stream_replays_the_logged_events(
    raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(replies(["Hel", "lo"], separate_writes=True))
    params = {"session": session, "content": "hi", "key": "k"}
    await raw_client.send_request("session.stream", params, id="first")
    events, answer = await raw_client.receive_events()
    await raw_client.send_request("session.stream", params, id="second")
    repeated_events, repeated_answer = await raw_client.receive_events()
    assert repeated_events == [event for event in events if "live" not in event]
    assert repeated_answer["result"] == answer["result"]
    assert len(provider.requests) == 1


async def test_a_session_is_created_once_with_a_key(client: AsyncClient) -> None:
    keyed = CreateParams(agent="echo", key="the only one")
    first = await client.create(keyed)
    assert await client.create(keyed) == first
    with pytest.raises(RequestFailed) as reused:
        await client.create(CreateParams(agent="fake", key="the only one"))
    assert reused.value.kind == "key_reused"


async def test_a_turn_that_takes_too_long_is_interrupted_with_a_timeout_error(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(hangs("I was about to say"), replies("better"))
    turn = await client.send(SendParams(session=session, content="hi", timeout_s=0.5))
    assert (turn.stop_reason, turn.error and turn.error.kind) == ("interrupted", "timeout")
    assert (await client.send(SendParams(session=session, content="again"))).text == "better"
    history = (await client.history(HistoryParams(session=session))).messages
    assert history[:2] == (User("hi"), Assistant(content="I was about to say"))


async def test_a_streamed_turn_sends_its_events_before_its_result(
    raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(replies(["Hel", "lo"], thinking="hm", separate_writes=True))
    await raw_client.send_request("session.stream", {"session": session, "content": "hi"}, id="mine")
    messages: list[Json] = []
    while "result" not in (message := await raw_client.receive()):
        messages.append(message)
    assert [message["params"]["request"] for message in messages] == ["mine"] * len(messages)
    events = [message["params"]["event"] for message in messages]
    logged = [event for event in events if "live" not in event]
    assert [event["type"] for event in logged] == ["user_message", "assistant_message", "done"]
    assert [event["text"] for event in events if event["type"] == "text_delta"] == ["Hel", "lo"]
    assert [event["text"] for event in events if event["type"] == "thinking_delta"] == ["hm"]
    assert events[-1]["type"] == "done"
    assert (message["id"], message["result"]["text"]) == ("mine", "Hello")
    assert (message["result"]["first_seq"], message["result"]["last_seq"]) == (logged[0]["seq"], logged[-1]["seq"])
    assert {event["turn"] for event in events} == {1}


async def test_a_stream_has_only_the_events_of_its_own_turn(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies("one", gate=[gate]), replies("two"), replies("three"))
    received: dict[str, list[AnyEvent | NewerEvent]] = {}

    async def stream(content: str) -> None:
        async with client.stream(SendParams(session=session, content=content)) as events:
            received[content] = [event async for event in events]
            assert events.result.text

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream, "1")
        await wait_model_requests(provider)
        nursery.start_soon(stream, "2")
        await wait_queued(client, session, 1)
        nursery.start_soon(stream, "3")
        await wait_queued(client, session, 2)
        gate.set()
    turns = {
        content: {event.turn for event in events if event.turn is not None} for content, events in received.items()
    }
    assert turns == {"1": {1}, "2": {2}, "3": {3}}


async def test_a_queued_stream_gets_its_position(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies("one", gate=[gate]), replies("two"))
    async with trio.open_nursery() as nursery:
        ConcurrentSends(client, session, nursery).send("1")
        await wait_model_requests(provider)
        await raw_client.send_request("session.stream", {"session": session, "content": "2"})
        queued = (await raw_client.receive())["params"]["event"]
        assert (queued["type"], queued["position"], queued["live"]) == ("message_queued", 1, True)
        gate.set()
        events, answer = await raw_client.receive_events()
    assert events[0]["type"] == "user_message"
    assert answer["result"]["text"] == "two"


async def test_an_interrupt_stops_a_streaming_turn_at_once(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(hangs("so far"), replies("on we go"))
    await raw_client.send_request("session.stream", {"session": session, "content": "hi"})
    while (await raw_client.receive())["params"]["event"]["type"] != "text_delta":
        pass
    interrupted = await client.interrupt(SessionParams(session=session))
    assert (interrupted.interrupted, interrupted.turn) == (True, 1)
    events, answer = await raw_client.receive_events()
    assert [event["type"] for event in events if "live" not in event] == [
        "interrupt_requested",
        "assistant_message",
        "done",
    ]
    assert (answer["result"]["stop_reason"], answer["result"]["text"]) == ("interrupted", "so far")
    await provider.wait_until(lambda fake: fake.disconnects == 1)
    assert (await client.send(SendParams(session=session, content="go on"))).text == "on we go"


async def test_a_turn_goes_on_when_its_streaming_client_disconnects(
    client: AsyncClient, daemon: WalrusdProcess, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies(["early ", "late"], gate=[_set_event(), gate]))
    async with open_raw_client(daemon.socket) as leaving:
        await leaving.send_request("session.stream", {"session": session, "content": "hi"})
        while (await leaving.receive())["params"]["event"]["type"] != "text_delta":
            pass
    gate.set()
    await client.wait(WaitParams(session=session, states=("idle",)))
    history = (await client.history(HistoryParams(session=session))).messages
    assert history == (User("hi"), Assistant(content="early late"))


async def test_the_session_of_agent_run_closes_even_if_the_client_disconnects(
    client: AsyncClient, daemon: WalrusdProcess, provider: FakeProvider
) -> None:
    gate = trio.Event()
    provider.enqueue(replies(["early ", "late"], gate=[_set_event(), gate]))
    async with open_raw_client(daemon.socket) as leaving:
        await leaving.send_request("agent.run", {"agent": "fake", "content": "hi"})
        while (event := (await leaving.receive())["params"]["event"])["type"] != "text_delta":
            pass
    gate.set()
    await client.wait(WaitParams(session=event["session"], states=("closed",)))
    history = (await client.history(HistoryParams(session=event["session"]))).messages
    assert history == (User("hi"), Assistant(content="early late"))


async def test_closing_by_force_ends_the_running_and_the_queued_turns(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(hangs("so"))
    async with trio.open_nursery() as nursery:
        sent = ConcurrentSends(client, session, nursery)
        sent.send("1")
        await wait_model_requests(provider)
        sent.send("2")
        await wait_queued(client, session, 1)
        assert (await client.close(CloseParams(session=session, force=True))).closed
    assert {content: turn.stop_reason for content, turn in sent.results.items()} == {
        "1": "interrupted",
        "2": "interrupted",
    }
    assert len(provider.requests) == 1


async def test_a_resume_continues_the_conversation_with_a_message_from_walrusd(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(replies("one"), replies("two"))
    await client.send(SendParams(session=session, content="1"))
    turn = await client.resume(SessionParams(session=session))
    assert (turn.turn, turn.text) == (2, "two")
    messages = (await client.history(HistoryParams(session=session))).messages
    assert messages[:1] == (User("1"),)
    assert messages[2:] == (User(f"From walrusd:\n{CONTINUE_PROMPT}"), Assistant(content="two"))
    await client.close(CloseParams(session=session))
    error = (await raw_client.call("session.resume", {"session": session}))["error"]
    assert error["data"]["kind"] == "session_closed"


async def test_closing_lets_the_running_and_the_queued_turns_finish(
    client: AsyncClient, raw_client: RawClient, provider: FakeProvider, session: int
) -> None:
    gate = trio.Event()
    provider.enqueue(replies("one", gate=[gate]), replies("two"))
    async with trio.open_nursery() as nursery:
        sent = ConcurrentSends(client, session, nursery)
        sent.send("1")
        await wait_model_requests(provider)
        sent.send("2")
        await wait_queued(client, session, 1)
        assert (await client.close(CloseParams(session=session))).closed
        error = (await raw_client.call("session.send", {"session": session, "content": "3"}))["error"]
        assert (error["code"], error["data"]["kind"]) == (-32005, "session_closed")
        gate.set()
    assert {content: turn.text for content, turn in sent.results.items()} == {"1": "one", "2": "two"}
    assert (await client.wait(WaitParams(session=session, states=("closed",)))).state == "closed"


async def test_a_turn_that_only_calls_tools_ends_at_max_iterations(
    client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.set_default(calls_tools(("read", {"path": "missing.txt"})))
    turn = await client.send(SendParams(session=session, content="hi"))
    assert (turn.stop_reason, turn.rounds) == ("max_iterations", 3)


async def test_a_turn_with_a_model_that_its_provider_lacks_ends_in_an_error(
    client: AsyncClient, provider: FakeProvider
) -> None:
    session = (await client.create(CreateParams(agent="lost"))).session
    turn = await client.send(SendParams(session=session, content="hi"))
    assert turn.stop_reason == "error"
    assert isinstance(turn.error, TurnError)


def _set_event() -> trio.Event:
    event = trio.Event()
    event.set()
    return event
