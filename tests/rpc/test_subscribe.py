"""event.subscribe: the daemon-wide stream, as one who watches everything, or some of it, sees it."""

from typing import Any

import pytest
import trio

from tests.fakes.home import Home
from tests.fakes.provider import FakeProvider, says
from tests.rpc.raw import Json, Raw, raw
from walrus_protocol.aclient import Client, connect
from walrus_protocol.events import StateChanged, UserMessage
from walrus_protocol.methods import CloseParams, CreateParams, SendParams
from walrus_protocol.watching import Subscribed, SubscribeParams

TURN = ["user_message", "assistant_message", "done"]


def types(events: list[Json]) -> list[str]:
    return [event["type"] for event in events]


async def next_event(line: Raw) -> Json:
    message = await line.receive()
    assert message.get("method") == "event", message
    event: Json = message["params"]["event"]
    return event


async def until(line: Raw, type_: str) -> list[Json]:
    """The events up to the first of a type."""
    events = [await next_event(line)]
    while events[-1]["type"] != type_:
        events.append(await next_event(line))
    return events


async def end(line: Raw) -> int:
    """The offset at which the log ends now."""
    last: int = (await line.call("event.subscribe", {"follow": False}))["result"]["last_offset"]
    return last


async def replay(line: Raw, **params: Any) -> list[Json]:
    await line.ask("event.subscribe", {"follow": False, **params})
    events, answer = await line.events()
    assert answer["result"]["reason"] == "end"
    return events


async def talked(client: Client, agent: str = "echo", *contents: str) -> int:
    session = (await client.create(CreateParams(agent=agent))).session
    for content in contents:
        await client.send(SendParams(session=session, content=content))
    return session


async def test_a_replay_has_the_events_of_all_sessions_in_the_order_of_their_offsets(line: Raw, client: Client) -> None:
    since = await end(line)
    first = await talked(client, "echo", "one")
    second = await talked(client, "echo", "two")
    await client.send(SendParams(session=first, content="three"))
    events = await replay(line, since=since)
    assert [(event["session"], event["seq"], event["type"]) for event in events] == [
        *((first, seq, type_) for seq, type_ in enumerate(["session_created", *TURN], 1)),
        *((second, seq, type_) for seq, type_ in enumerate(["session_created", *TURN], 1)),
        *((first, seq, type_) for seq, type_ in enumerate(TURN, 5)),
    ]
    offsets = [event["offset"] for event in events]
    assert offsets == sorted(set(offsets))
    assert await end(line) == offsets[-1]


async def test_without_since_it_begins_now_and_says_when_it_has(line: Raw, client: Client) -> None:
    await talked(client, "echo", "before")
    await line.ask("event.subscribe")
    mark = await next_event(line)
    assert mark.pop("ts") > 0
    assert mark == {"type": "state_changed", "session": None, "turn": None, "live": True, "state": "idle"}
    session = await talked(client, "echo", "hi")
    events = await until(line, "done")
    assert [event["type"] for event in events if "live" not in event] == ["session_created", *TURN]
    assert {event["session"] for event in events} == {session}


async def test_since_beyond_the_end_is_refused(line: Raw) -> None:
    last = await end(line)
    error = (await line.call("event.subscribe", {"since": last + 1}))["error"]
    assert (error["code"], error["data"]["kind"]) == (-32005, "offset_in_future")
    assert error["data"]["hint"]
    assert (await line.call("event.subscribe", {"since": last, "follow": False}))["result"] == {
        "last_offset": last,
        "reason": "end",
    }


async def test_sessions_agents_and_types_choose(line: Raw, client: Client, provider: FakeProvider) -> None:
    provider.always(says(["hello"]))
    since = await end(line)
    first, second = await talked(client, "echo", "one"), await talked(client, "echo", "two")
    third = await talked(client, "told", "three")
    everything = await replay(line, since=since)
    for chosen, kept in (
        ({"sessions": [first, third]}, lambda event: event["session"] in (first, third)),
        ({"agents": ["echo"]}, lambda event: event["session"] in (first, second)),
        ({"types": ["done", "user_message"]}, lambda event: event["type"] in ("done", "user_message")),
        ({"agents": ["told"], "types": ["done"]}, lambda event: (event["session"], event["type"]) == (third, "done")),
        ({"sessions": [second], "agents": ["told"]}, lambda _: False),
        ({"agents": ["lost"]}, lambda _: False),
        ({"types": ["tick"]}, lambda _: False),
    ):
        assert await replay(line, since=since, **chosen) == list(filter(kept, everything))
    assert await end(line) == everything[-1]["offset"]


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize(
    ("chosen", "kind", "hint"),
    [
        ({"sessions": [999_999]}, "session_not_found", "`walrusctl session list --all` shows those there are."),
        ({"agents": ["echo", "ecco"]}, "agent_not_found", "Did you mean echo?"),
        ({"agents": ["nobody"]}, "agent_not_found", "`walrusctl agent list` shows those there are."),
    ],
)
async def test_what_is_chosen_has_to_be_there(line: Raw, chosen: Json, kind: str, hint: str, *, follow: bool) -> None:
    error = (await line.call("event.subscribe", {"follow": follow, **chosen}))["error"]
    assert (error["data"]["kind"], error["data"]["hint"]) == (kind, hint)


async def test_what_is_chosen_is_chosen_of_what_comes_too(
    line: Raw, client: Client, provider: FakeProvider, session: int
) -> None:
    provider.always(says(["Hel", "lo"], apart=True))
    await line.ask("event.subscribe", {"agents": ["told"], "types": ["text_delta", "done"]})
    assert (await next_event(line))["type"] == "state_changed"
    await talked(client, "echo", "not for us")
    await client.send(SendParams(session=session, content="hi"))
    events = await until(line, "done")
    assert [(event["type"], event["session"], event.get("text")) for event in events] == [
        ("text_delta", session, "Hel"),
        ("text_delta", session, "lo"),
        ("done", session, "Hello"),
    ]


async def test_without_deltas_facts_and_states_come(
    line: Raw, client: Client, provider: FakeProvider, session: int
) -> None:
    provider.always(says(["Hel", "lo"], thinking="hm", apart=True))
    await line.ask("event.subscribe", {"deltas": False})
    await until(line, "state_changed")
    await client.send(SendParams(session=session, content="hi"))
    assert set(types(await until(line, "done"))) == {*TURN, "state_changed"}


async def test_one_who_comes_in_mid_turn_gets_the_text_so_far_of_each_reply_under_way(
    line: Raw, client: Client, provider: FakeProvider, session: int
) -> None:
    gates = [trio.Event() for _ in range(3)]
    gates[0].set(), gates[1].set()
    provider.will(says(["Grüß ", "Gott, ", "Welt"], gate=gates))
    async with client.stream(SendParams(session=session, content="hi")) as turn:
        async for event in turn:
            if getattr(event, "text", "") == "Gott, ":
                break
        await line.ask("event.subscribe", {"sessions": [session]})
        mark, so_far = [await next_event(line) for _ in range(2)]
        assert (mark["session"], mark["state"]) == (None, "processing")
        assert (so_far["session"], so_far["turn"], so_far["text"], so_far["at"]) == (session, 1, "Grüß Gott, ", 0)
        gates[2].set()
        rest = [event for event in await until(line, "done") if event["type"] == "text_delta"]
        assert [(event["text"], event["at"]) for event in rest] == [("Welt", 11)]


async def test_it_ends_when_the_chosen_sessions_are_closed(line: Raw, client: Client) -> None:
    first, second = await talked(client), await talked(client)
    await client.close(CloseParams(session=first))
    await line.ask("event.subscribe", {"sessions": [first, second], "types": ["done"]})
    await until(line, "state_changed")
    await client.send(SendParams(session=second, content="hi"))
    done = await next_event(line)
    await client.close(CloseParams(session=second))
    events, answer = await line.events()
    assert (done["type"], events) == ("done", [])
    assert answer["result"]["reason"] == "closed"
    assert done["offset"] <= answer["result"]["last_offset"] <= await end(line)


async def test_of_closed_sessions_it_tells_what_there_is_and_ends(line: Raw, client: Client) -> None:
    session = await talked(client)
    await client.close(CloseParams(session=session))
    await line.ask("event.subscribe", {"since": 0, "sessions": [session]})
    events, answer = await line.events()
    assert types(events) == ["session_created", "session_closed", "state_changed"]
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
async def test_what_cannot_be_chosen_is_refused(line: Raw, params: Json, code: int, kind: str, hint: str) -> None:
    error = (await line.call("event.subscribe", params))["error"]
    assert (error["code"], error["data"]["kind"]) == (code, kind)
    assert error["data"]["hint"].startswith(hint)
    assert (await line.call("daemon.ping"))["result"] == {}


async def test_a_cancelled_subscription_ends_and_its_connection_lives(line: Raw) -> None:
    await line.ask("event.subscribe", id="watch")
    await until(line, "state_changed")
    await line.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": "watch"}})
    answer = await line.receive()
    assert (answer["id"], answer["error"]["code"]) == ("watch", -32010)
    assert (await line.call("daemon.ping"))["result"] == {}


async def test_the_typed_client_subscribes(client: Client) -> None:
    async with client.subscribe(SubscribeParams(types=("user_message",))) as events:
        assert isinstance(await anext(events), StateChanged)
        session = await talked(client, "echo", "hi")
        event = await anext(events)
        assert isinstance(event, UserMessage)
        assert (event.session, event.content) == (session, "hi")
        last = event.offset
        assert isinstance(last, int)
    async with client.subscribe(SubscribeParams(since=last - 1, follow=False, types=("user_message",))) as events:
        assert [event async for event in events] == [event]
        assert events.result.reason == "end"
        assert events.result == Subscribed(last_offset=events.result.last_offset, reason="end")


async def test_the_daemons_own_facts_are_in_it_with_neither_session_nor_seq(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = Home(tmp_path_factory.mktemp("facts") / "home")
    with home.walrusd() as daemon:
        async with raw(daemon.socket) as line, raw(daemon.socket) as other:
            await line.ask("event.subscribe")
            await until(line, "state_changed")
            home.write("agents/new.md", "You are new.")
            await other.call("daemon.reload")
            fact = await next_event(line)
            assert await replay(other, since=0) == [fact]
            assert (fact["type"], fact["session"], fact["seq"], fact["turn"]) == ("config_reloaded", None, None, None)
            assert await replay(other, since=0, agents=["walrus"]) == []
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client, raw(daemon.socket) as line:
            await client.create(CreateParams(agent="walrus"))
            events = await replay(line, since=0)
            assert (events[0], types(events)) == (fact, ["config_reloaded", "session_created"])
