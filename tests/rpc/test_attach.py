"""Tests of session.attach and session.wait: no event is missed, however late or slow the client."""

import pytest
import trio

from tests.fakes.home import WalrusdProcess
from tests.fakes.provider import FakeProvider, hangs, replies
from tests.rpc.raw_client import Json, RawClient
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.methods import CloseParams, CreateParams, SendParams, SessionParams

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


@pytest.fixture
async def other_client(daemon: WalrusdProcess) -> "RawClient":
    return RawClient(await trio.open_unix_socket(daemon.socket))


async def test_without_follow_the_log_is_read_to_its_end(raw_client: RawClient, client: AsyncClient) -> None:
    session = (await client.create(CreateParams(agent="echo", created_by="me", title="t"))).session
    await client.send(SendParams(session=session, content="hi", key="k"))
    await raw_client.send_request("session.attach", {"session": session, "follow": False})
    events, answer = await raw_client.receive_events()
    assert answer["result"] == {"last_seq": 4, "reason": "end"}
    assert event_types(events) == ["session_created", *TURN]
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


async def test_since_skips_the_events_up_to_it(raw_client: RawClient, client: AsyncClient) -> None:
    session = (await client.create(CreateParams(agent="echo"))).session
    await client.send(SendParams(session=session, content="hi"))
    for since, seqs in ((0, [1, 2, 3, 4]), (2, [3, 4]), (4, [])):
        await raw_client.send_request("session.attach", {"session": session, "since": since, "follow": False})
        events, answer = await raw_client.receive_events()
        assert [event["seq"] for event in events] == seqs
        assert answer["result"] == {"last_seq": 4, "reason": "end"}


async def test_since_beyond_the_end_is_refused(raw_client: RawClient, session: int) -> None:
    error = (await raw_client.call("session.attach", {"session": session, "since": 2}))["error"]
    assert (error["code"], error["data"]["kind"]) == (-32005, "offset_in_future")
    assert error["data"]["hint"]


async def test_a_log_longer_than_the_live_window_is_read_whole(raw_client: RawClient, client: AsyncClient) -> None:
    session = (await client.create(CreateParams(agent="echo"))).session
    for _ in range(4):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(client.send, SendParams(session=session, content=f"message {number}"))
    await raw_client.send_request("session.attach", {"session": session, "follow": False})
    events, answer = await raw_client.receive_events()
    assert [event["seq"] for event in events] == list(range(1, 602))
    assert answer["result"] == {"last_seq": 601, "reason": "end"}


async def test_a_follower_is_notified_when_caught_up_and_then_gets_new_events(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.set_default(replies(["Hel", "lo"], separate_writes=True))
    await raw_client.send_request("session.attach", {"session": session})
    assert event_types(await events_until(raw_client, "state_changed")) == ["session_created", "state_changed"]
    await client.send(SendParams(session=session, content="hi"))
    events = await events_until(raw_client, "done")
    logged = [event for event in events if "live" not in event]
    assert event_types(logged) == TURN
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
    assert (await next_event(raw_client))["state"] == "idle"


async def test_without_deltas_only_logged_events_and_states_are_sent(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.set_default(replies(["Hel", "lo"], thinking="hm", separate_writes=True))
    await raw_client.send_request("session.attach", {"session": session, "deltas": False})
    await events_until(raw_client, "state_changed")
    await client.send(SendParams(session=session, content="hi"))
    assert set(event_types(await events_until(raw_client, "done"))) == {*TURN, "state_changed"}


async def test_attaching_in_mid_turn_gives_the_text_so_far_as_one_delta(
    raw_client: RawClient, client: AsyncClient, other_client: RawClient, provider: FakeProvider, session: int
) -> None:
    gates = [trio.Event() for _ in range(3)]
    gates[0].set(), gates[1].set()
    provider.enqueue(replies(["Grüß ", "Gott, ", "Welt"], gate=gates))
    await other_client.send_request("session.stream", {"session": session, "content": "hi"})
    while (await next_event(other_client)).get("text") != "Gott, ":
        pass
    await raw_client.send_request("session.attach", {"session": session})
    events = await events_until(raw_client, "text_delta")
    assert event_types(events) == ["session_created", "user_message", "state_changed", "text_delta"]
    assert (events[2]["state"], events[2]["turn"]) == ("processing", 1)
    assert (events[3]["text"], events[3]["at"]) == ("Grüß Gott, ", 0)
    gates[2].set()
    events = await events_until(raw_client, "done")
    assert [(event["text"], event["at"]) for event in events if event["type"] == "text_delta"] == [("Welt", 11)]
    await other_client.stream.aclose()


async def test_two_attachments_get_the_same_events(
    raw_client: RawClient, client: AsyncClient, other_client: RawClient, provider: FakeProvider, session: int
) -> None:
    provider.set_default(replies(["a", "b", "c"], separate_writes=True))
    for attached in (raw_client, other_client):
        await attached.send_request("session.attach", {"session": session})
        await events_until(attached, "state_changed")
    await client.send(SendParams(session=session, content="hi"))
    assert await events_until(raw_client, "done") == await events_until(other_client, "done")
    await other_client.stream.aclose()


async def test_a_close_ends_the_attachment(raw_client: RawClient, client: AsyncClient, session: int) -> None:
    await raw_client.send_request("session.attach", {"session": session})
    await events_until(raw_client, "state_changed")
    await client.close(CloseParams(session=session))
    events, answer = await raw_client.receive_events()
    assert [event["type"] for event in events if "live" not in event] == ["session_closed"]
    assert answer["result"] == {"last_seq": 2, "reason": "closed"}


@pytest.mark.parametrize("since", [0, 1, 2])
async def test_attaching_to_a_closed_session_reads_it_and_ends(
    raw_client: RawClient, client: AsyncClient, session: int, since: int
) -> None:
    await client.close(CloseParams(session=session))
    await raw_client.send_request("session.attach", {"session": session, "since": since})
    events, answer = await raw_client.receive_events()
    assert [event["seq"] for event in events if "live" not in event] == [1, 2][since:]
    assert answer["result"] == {"last_seq": 2, "reason": "closed"}


async def test_a_cancelled_attachment_ends_and_its_connection_stays_open(raw_client: RawClient, session: int) -> None:
    await raw_client.send_request("session.attach", {"session": session}, id="watch")
    await events_until(raw_client, "state_changed")
    await raw_client.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": "watch"}})
    answer = await raw_client.receive()
    assert (answer["id"], answer["error"]["code"]) == ("watch", -32010)
    assert (await raw_client.call("daemon.ping"))["result"] == {}


async def test_an_attachment_that_is_not_read_does_not_delay_a_turn(
    client: AsyncClient, other_client: RawClient, provider: FakeProvider, session: int
) -> None:
    await other_client.send_request("session.attach", {"session": session})
    provider.set_default(replies(["word "] * 5000))
    for _ in range(3):
        assert (await client.send(SendParams(session=session, content="x" * 500_000))).stop_reason == "text_response"
    events = await events_until(other_client, "session_created")
    while events[-1]["type"] != "done" or events[-1]["turn"] != 3:
        events.append(await next_event(other_client))
    logged = [event for event in events if "live" not in event]
    assert event_types(logged) == ["session_created", *TURN * 3], "a logged event is never dropped"
    await other_client.stream.aclose()


async def test_wait_ends_with_the_first_of_the_states(raw_client: RawClient, client: AsyncClient, session: int) -> None:
    params = {"session": session, "states": ["error", "idle"]}
    assert (await raw_client.call("session.wait", params))["result"] == {"state": "idle"}
    await raw_client.send_request("session.wait", {"session": session, "states": ["closed"]})
    await client.close(CloseParams(session=session))
    assert (await raw_client.receive())["result"] == {"state": "closed"}


async def test_a_wait_times_out(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider, session: int
) -> None:
    provider.enqueue(hangs("so"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, SendParams(session=session, content="hi"))
        await raw_client.call("session.wait", {"session": session, "states": ["processing"]})
        error = (await raw_client.call("session.wait", {"session": session, "states": ["idle"], "timeout_s": 0.01}))[
            "error"
        ]
        assert (error["code"], error["data"]["kind"]) == (-32009, "timeout")
        assert error["data"]["hint"]
        assert (await client.interrupt(SessionParams(session=session))).interrupted
