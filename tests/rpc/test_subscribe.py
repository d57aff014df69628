"""Tests of event.subscribe: the daemon-wide stream, whole and filtered."""

from typing import Any

import pytest
import trio

from tests.fakes.home import Home
from tests.fakes.provider import FakeProvider, replies
from tests.rpc.raw_client import Json, RawClient, open_raw_client
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.events import StateChanged, UserMessage
from walrus_protocol.methods import CloseParams, CreateParams, SendParams
from walrus_protocol.methods.subscribe import SubscribeParams, SubscribeResult

TURN = ["user_message", "assistant_message", "done"]


def event_types(events: list[Json]) -> list[str]:
    return [event["type"] for event in events]


async def next_event(raw_client: RawClient) -> Json:
    message = await raw_client.receive()
    assert message.get("method") == "event", message
    event: Json = message["params"]["event"]
    return event


async def events_until(raw_client: RawClient, type_: str) -> list[Json]:
    """Returns the events up to the first of a type."""
    events = [await next_event(raw_client)]
    while events[-1]["type"] != type_:
        events.append(await next_event(raw_client))
    return events


async def last_offset(raw_client: RawClient) -> int:
    """Returns the offset at which the log ends now."""
    last: int = (await raw_client.call("event.subscribe", {"follow": False}))["result"]["last_offset"]
    return last


async def replay(raw_client: RawClient, **params: Any) -> list[Json]:
    await raw_client.send_request("event.subscribe", {"follow": False, **params})
    events, answer = await raw_client.receive_events()
    assert answer["result"]["reason"] == "end"
    return events


async def session_with_messages(client: AsyncClient, agent: str = "echo", *contents: str) -> int:
    session = (await client.create(CreateParams(agent=agent))).session
    for content in contents:
        await client.send(SendParams(session=session, content=content))
    return session


async def test_a_replay_has_the_events_of_all_sessions_in_the_order_of_their_offsets(
    raw_client: RawClient, client: AsyncClient
) -> None:
    since = await last_offset(raw_client)
    first = await session_with_messages(client, "echo", "one")
    second = await session_with_messages(client, "echo", "two")
    await client.send(SendParams(session=first, content="three"))
    events = await replay(raw_client, since=since)
    assert [(event["session"], event["seq"], event["type"]) for event in events] == [
        *((first, seq, type_) for seq, type_ in enumerate(["session_created", *TURN], 1)),
        *((second, seq, type_) for seq, type_ in enumerate(["session_created", *TURN], 1)),
        *((first, seq, type_) for seq, type_ in enumerate(TURN, 5)),
    ]
    offsets = [event["offset"] for event in events]
    assert offsets == sorted(set(offsets))
    assert await last_offset(raw_client) == offsets[-1]


async def test_without_since_a_subscription_begins_now_and_confirms_it(
    raw_client: RawClient, client: AsyncClient
) -> None:
    await session_with_messages(client, "echo", "before")
    await raw_client.send_request("event.subscribe")
    caught_up = await next_event(raw_client)
    assert caught_up.pop("ts") > 0
    assert caught_up == {"type": "state_changed", "session": None, "turn": None, "live": True, "state": "idle"}
    session = await session_with_messages(client, "echo", "hi")
    events = await events_until(raw_client, "done")
    assert [event["type"] for event in events if "live" not in event] == ["session_created", *TURN]
    assert {event["session"] for event in events} == {session}


async def test_since_beyond_the_end_is_refused(raw_client: RawClient) -> None:
    last = await last_offset(raw_client)
    error = (await raw_client.call("event.subscribe", {"since": last + 1}))["error"]
    assert (error["code"], error["data"]["kind"]) == (-32005, "offset_in_future")
    assert error["data"]["hint"]
    assert (await raw_client.call("event.subscribe", {"since": last, "follow": False}))["result"] == {
        "last_offset": last,
        "reason": "end",
    }


async def test_sessions_agents_and_types_filter_the_stream(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider
) -> None:
    provider.set_default(replies(["hello"]))
    since = await last_offset(raw_client)
    first, second = (
        await session_with_messages(client, "echo", "one"),
        await session_with_messages(client, "echo", "two"),
    )
    third = await session_with_messages(client, "fake", "three")
    all_events = await replay(raw_client, since=since)
    for filters, matches in (
        ({"sessions": [first, third]}, lambda event: event["session"] in (first, third)),
        ({"agents": ["echo"]}, lambda event: event["session"] in (first, second)),
        ({"types": ["done", "user_message"]}, lambda event: event["type"] in ("done", "user_message")),
        ({"agents": ["fake"], "types": ["done"]}, lambda event: (event["session"], event["type"]) == (third, "done")),
        ({"sessions": [second], "agents": ["fake"]}, lambda _: False),
        ({"agents": ["lost"]}, lambda _: False),
        ({"types": ["tick"]}, lambda _: False),
    ):
        assert await replay(raw_client, since=since, **filters) == list(filter(matches, all_events))
    assert await last_offset(raw_client) == all_events[-1]["offset"]


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize(
    ("filters", "kind", "hint"),
    [
        ({"sessions": [999_999]}, "session_not_found", "`walrusctl session list --all` lists them."),
        ({"agents": ["echo", "ecco"]}, "agent_not_found", "Did you mean echo?"),
        ({"agents": ["nobody"]}, "agent_not_found", "`walrusctl agent list` lists them."),
    ],
)
async def test_a_filter_for_something_unknown_is_refused(
    raw_client: RawClient, filters: Json, kind: str, hint: str, *, follow: bool
) -> None:
    error = (await raw_client.call("event.subscribe", {"follow": follow, **filters}))["error"]
    assert (error["data"]["kind"], error["data"]["hint"]) == (kind, hint)


async def test_a_filter_applies_to_new_events_too(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.set_default(replies(["Hel", "lo"], separate_writes=True))
    await raw_client.send_request("event.subscribe", {"agents": ["fake"], "types": ["text_delta", "done"]})
    assert (await next_event(raw_client))["type"] == "state_changed"
    await session_with_messages(client, "echo", "not for us")
    await client.send(SendParams(session=session, content="hi"))
    events = await events_until(raw_client, "done")
    assert [(event["type"], event["session"], event.get("text")) for event in events] == [
        ("text_delta", session, "Hel"),
        ("text_delta", session, "lo"),
        ("done", session, "Hello"),
    ]


async def test_without_deltas_logged_events_and_states_are_sent(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.set_default(replies(["Hel", "lo"], thinking="hm", separate_writes=True))
    await raw_client.send_request("event.subscribe", {"deltas": False})
    await events_until(raw_client, "state_changed")
    await client.send(SendParams(session=session, content="hi"))
    assert set(event_types(await events_until(raw_client, "done"))) == {*TURN, "state_changed"}


async def test_a_subscriber_in_mid_turn_gets_the_text_so_far_of_each_reply(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    gates = [trio.Event() for _ in range(3)]
    gates[0].set(), gates[1].set()
    provider.enqueue(replies(["Grüß ", "Gott, ", "Welt"], gate=gates))
    async with client.stream(SendParams(session=session, content="hi")) as turn:
        async for event in turn:
            if getattr(event, "text", "") == "Gott, ":
                break
        await raw_client.send_request("event.subscribe", {"sessions": [session]})
        caught_up, so_far = [await next_event(raw_client) for _ in range(2)]
        assert (caught_up["session"], caught_up["state"]) == (None, "processing")
        assert (so_far["session"], so_far["turn"], so_far["text"], so_far["at"]) == (session, 1, "Grüß Gott, ", 0)
        gates[2].set()
        rest = [event for event in await events_until(raw_client, "done") if event["type"] == "text_delta"]
        assert [(event["text"], event["at"]) for event in rest] == [("Welt", 11)]


async def test_a_subscription_ends_when_its_sessions_are_closed(raw_client: RawClient, client: AsyncClient) -> None:
    first, second = await session_with_messages(client), await session_with_messages(client)
    await client.close(CloseParams(session=first))
    await raw_client.send_request("event.subscribe", {"sessions": [first, second], "types": ["done"]})
    await events_until(raw_client, "state_changed")
    await client.send(SendParams(session=second, content="hi"))
    done = await next_event(raw_client)
    await client.close(CloseParams(session=second))
    events, answer = await raw_client.receive_events()
    assert (done["type"], events) == ("done", [])
    assert answer["result"]["reason"] == "closed"
    assert done["offset"] <= answer["result"]["last_offset"] <= await last_offset(raw_client)


async def test_a_subscription_to_closed_sessions_replays_their_events_and_ends(
    raw_client: RawClient, client: AsyncClient
) -> None:
    session = await session_with_messages(client)
    await client.close(CloseParams(session=session))
    await raw_client.send_request("event.subscribe", {"since": 0, "sessions": [session]})
    events, answer = await raw_client.receive_events()
    assert event_types(events) == ["session_created", "session_closed", "state_changed"]
    assert answer["result"]["reason"] == "closed"


@pytest.mark.parametrize(
    ("params", "code", "kind", "hint"),
    [
        ({"types": ["dnoe"]}, -32602, "invalid_params", "did you mean done?"),
        ({"types": ["done", "ticks"]}, -32602, "invalid_params", "did you mean tick?"),
        ({"types": []}, -32602, "invalid_params", ""),
        ({"sessions": ["1"]}, -32602, "invalid_params", ""),
        ({"session": [1]}, -32602, "invalid_params", "did you mean sessions?"),
        ({"sessions": [999_999]}, -32004, "session_not_found", ""),
    ],
)
async def test_an_invalid_filter_is_refused(
    raw_client: RawClient, params: Json, code: int, kind: str, hint: str
) -> None:
    error = (await raw_client.call("event.subscribe", params))["error"]
    assert (error["code"], error["data"]["kind"]) == (code, kind)
    assert error["data"]["hint"].startswith(hint)
    assert (await raw_client.call("daemon.ping"))["result"] == {}


async def test_a_cancelled_subscription_ends_and_its_connection_stays_open(raw_client: RawClient) -> None:
    await raw_client.send_request("event.subscribe", id="watch")
    await events_until(raw_client, "state_changed")
    await raw_client.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": "watch"}})
    answer = await raw_client.receive()
    assert (answer["id"], answer["error"]["code"]) == ("watch", -32010)
    assert (await raw_client.call("daemon.ping"))["result"] == {}


async def test_the_typed_client_subscribes(client: AsyncClient) -> None:
    async with client.subscribe(SubscribeParams(types=("user_message",))) as events:
        assert isinstance(await anext(events), StateChanged)
        session = await session_with_messages(client, "echo", "hi")
        event = await anext(events)
        assert isinstance(event, UserMessage)
        assert (event.session, event.content) == (session, "hi")
        last = event.offset
        assert isinstance(last, int)
    async with client.subscribe(SubscribeParams(since=last - 1, follow=False, types=("user_message",))) as events:
        assert [event async for event in events] == [event]
        assert events.result.reason == "end"
        assert events.result == SubscribeResult(last_offset=events.result.last_offset, reason="end")


async def test_daemon_events_are_streamed_without_session_and_seq(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = Home(tmp_path_factory.mktemp("daemon_events") / "home")
    with home.walrusd() as daemon:
        async with open_raw_client(daemon.socket) as raw_client, open_raw_client(daemon.socket) as other:
            await raw_client.send_request("event.subscribe")
            await events_until(raw_client, "state_changed")
            home.write("agents/new.md", "You are new.")
            await other.call("daemon.reload")
            daemon_event = await next_event(raw_client)
            assert await replay(other, since=0) == [daemon_event]
            assert (daemon_event["type"], daemon_event["session"], daemon_event["seq"], daemon_event["turn"]) == (
                "config_reloaded",
                None,
                None,
                None,
            )
            assert await replay(other, since=0, agents=["walrus"]) == []
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client, open_raw_client(daemon.socket) as raw_client:
            await client.create(CreateParams(agent="walrus"))
            events = await replay(raw_client, since=0)
            assert (events[0], event_types(events)) == (daemon_event, ["config_reloaded", "session_created"])
