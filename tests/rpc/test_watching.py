"""session.attach: a cursor over the log and the live window, however late or slow the reader."""

import pytest
import trio

from tests.fakes.home import Walrusd
from tests.fakes.provider import FakeProvider, hangs, says
from tests.rpc.raw import Json, Raw
from walrus_protocol.aclient import Client
from walrus_protocol.methods import CloseParams, CreateParams, SendParams, SessionParams

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


@pytest.fixture
async def other(daemon: Walrusd) -> "Raw":
    return Raw(await trio.open_unix_socket(daemon.socket))


async def test_without_follow_the_log_is_read_to_its_end(line: Raw, client: Client) -> None:
    session = (await client.create(CreateParams(agent="echo", created_by="me", title="t"))).session
    await client.send(SendParams(session=session, content="hi", key="k"))
    await line.ask("session.attach", {"session": session, "follow": False})
    events, answer = await line.events()
    assert answer["result"] == {"last_seq": 4, "reason": "end"}
    assert types(events) == ["session_created", *TURN]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    offsets = [event.pop("offset") for event in events]
    assert offsets == sorted(set(offsets))
    times = [event.pop("ts") for event in events]
    assert times == sorted(times)
    assert events[0] == {
        "type": "session_created",
        "seq": 1,
        "session": session,
        "turn": None,
        "agent": "echo",
        "created_by": "me",
        "title": "t",
        "parent": None,
    }
    assert events[1] == {
        "type": "user_message",
        "seq": 2,
        "session": session,
        "turn": 1,
        "content": "hi",
        "sender": "",
        "key": "k",
        "kind": "message",
        "timeout_s": None,
    }
    assert (events[3]["stop_reason"], events[3]["text"], events[3]["turn"]) == ("text_response", "hi", 1)


async def test_since_leaves_out_what_was_seen(line: Raw, client: Client) -> None:
    session = (await client.create(CreateParams(agent="echo"))).session
    await client.send(SendParams(session=session, content="hi"))
    for since, seqs in ((0, [1, 2, 3, 4]), (2, [3, 4]), (4, [])):
        await line.ask("session.attach", {"session": session, "since": since, "follow": False})
        events, answer = await line.events()
        assert [event["seq"] for event in events] == seqs
        assert answer["result"] == {"last_seq": 4, "reason": "end"}


async def test_since_beyond_the_end_is_refused(line: Raw, session: int) -> None:
    error = (await line.call("session.attach", {"session": session, "since": 2}))["error"]
    assert (error["code"], error["data"]["kind"]) == (-32005, "offset_in_future")
    assert error["data"]["hint"]


async def test_a_log_longer_than_the_live_window_is_read_whole(line: Raw, client: Client) -> None:
    session = (await client.create(CreateParams(agent="echo"))).session
    for _ in range(4):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(client.send, SendParams(session=session, content=f"message {number}"))
    await line.ask("session.attach", {"session": session, "follow": False})
    events, answer = await line.events()
    assert [event["seq"] for event in events] == list(range(1, 602))
    assert answer["result"] == {"last_seq": 601, "reason": "end"}


async def test_a_follower_is_told_when_it_has_caught_up_and_then_what_comes(
    line: Raw, client: Client, provider: FakeProvider, session: int
) -> None:
    provider.always(says(["Hel", "lo"], apart=True))
    await line.ask("session.attach", {"session": session})
    assert types(await until(line, "state_changed")) == ["session_created", "state_changed"]
    await client.send(SendParams(session=session, content="hi"))
    events = await until(line, "done")
    facts = [event for event in events if "live" not in event]
    assert types(facts) == TURN
    deltas = [event for event in events if event["type"] == "text_delta"]
    assert [(delta["text"], delta["at"], delta["round"], delta["turn"]) for delta in deltas] == [
        ("Hel", 0, 1, 1),
        ("lo", 3, 1, 1),
    ]
    states = [event["state"] for event in events if event["type"] == "state_changed"]
    assert states == ["processing"]
    for live in (event for event in events if "live" in event):
        assert live["live"] is True
        assert not {"seq", "offset"} & live.keys()
    assert (await next_event(line))["state"] == "idle"


async def test_without_deltas_only_facts_and_states_come(
    line: Raw, client: Client, provider: FakeProvider, session: int
) -> None:
    provider.always(says(["Hel", "lo"], thinking="hm", apart=True))
    await line.ask("session.attach", {"session": session, "deltas": False})
    await until(line, "state_changed")
    await client.send(SendParams(session=session, content="hi"))
    assert set(types(await until(line, "done"))) == {*TURN, "state_changed"}


async def test_attaching_in_mid_turn_gives_the_text_so_far_as_one_delta(
    line: Raw, client: Client, other: Raw, provider: FakeProvider, session: int
) -> None:
    gates = [trio.Event() for _ in range(3)]
    gates[0].set(), gates[1].set()
    provider.will(says(["Grüß ", "Gott, ", "Welt"], gate=gates))
    await other.ask("session.stream", {"session": session, "content": "hi"})
    while (await next_event(other)).get("text") != "Gott, ":
        pass
    await line.ask("session.attach", {"session": session})
    events = await until(line, "text_delta")
    assert types(events) == ["session_created", "user_message", "state_changed", "text_delta"]
    assert (events[2]["state"], events[2]["turn"]) == ("processing", 1)
    assert (events[3]["text"], events[3]["at"]) == ("Grüß Gott, ", 0)
    gates[2].set()
    events = await until(line, "done")
    assert [(event["text"], event["at"]) for event in events if event["type"] == "text_delta"] == [("Welt", 11)]
    await other.stream.aclose()


async def test_two_attachers_see_the_same(
    line: Raw, client: Client, other: Raw, provider: FakeProvider, session: int
) -> None:
    provider.always(says(["a", "b", "c"], apart=True))
    for watching in (line, other):
        await watching.ask("session.attach", {"session": session})
        await until(watching, "state_changed")
    await client.send(SendParams(session=session, content="hi"))
    assert await until(line, "done") == await until(other, "done")
    await other.stream.aclose()


async def test_a_close_ends_the_attachment(line: Raw, client: Client, session: int) -> None:
    await line.ask("session.attach", {"session": session})
    await until(line, "state_changed")
    await client.close(CloseParams(session=session))
    events, answer = await line.events()
    assert [event["type"] for event in events if "live" not in event] == ["session_closed"]
    assert answer["result"] == {"last_seq": 2, "reason": "closed"}


@pytest.mark.parametrize("since", [0, 1, 2])
async def test_attaching_to_a_closed_session_reads_it_and_ends(
    line: Raw, client: Client, session: int, since: int
) -> None:
    await client.close(CloseParams(session=session))
    await line.ask("session.attach", {"session": session, "since": since})
    events, answer = await line.events()
    assert [event["seq"] for event in events if "live" not in event] == [1, 2][since:]
    assert answer["result"] == {"last_seq": 2, "reason": "closed"}


async def test_a_cancelled_attachment_ends_and_its_connection_lives(line: Raw, session: int) -> None:
    await line.ask("session.attach", {"session": session}, id="watch")
    await until(line, "state_changed")
    await line.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": "watch"}})
    answer = await line.receive()
    assert (answer["id"], answer["error"]["code"]) == ("watch", -32010)
    assert (await line.call("daemon.ping"))["result"] == {}


async def test_attaching_does_not_hold_up_a_turn_that_nobody_reads(
    client: Client, other: Raw, provider: FakeProvider, session: int
) -> None:
    await other.ask("session.attach", {"session": session})
    provider.always(says(["word "] * 5000))
    for _ in range(3):
        assert (await client.send(SendParams(session=session, content="x" * 500_000))).stop_reason == "text_response"
    events = await until(other, "session_created")
    while events[-1]["type"] != "done" or events[-1]["turn"] != 3:
        events.append(await next_event(other))
    facts = [event for event in events if "live" not in event]
    assert types(facts) == ["session_created", *TURN * 3], "no fact is ever dropped"
    await other.stream.aclose()


async def test_wait_ends_with_the_first_of_the_states(line: Raw, client: Client, session: int) -> None:
    wanted = {"session": session, "states": ["error", "idle"]}
    assert (await line.call("session.wait", wanted))["result"] == {"state": "idle"}
    await line.ask("session.wait", {"session": session, "states": ["closed"]})
    await client.close(CloseParams(session=session))
    assert (await line.receive())["result"] == {"state": "closed"}


async def test_a_wait_has_a_limit(line: Raw, client: Client, provider: FakeProvider, session: int) -> None:
    provider.will(hangs("so"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, SendParams(session=session, content="hi"))
        await line.call("session.wait", {"session": session, "states": ["processing"]})
        error = (await line.call("session.wait", {"session": session, "states": ["idle"], "timeout_s": 0.01}))["error"]
        assert (error["code"], error["data"]["kind"]) == (-32009, "timeout")
        assert error["data"]["hint"]
        assert (await client.interrupt(SessionParams(session=session))).interrupted
