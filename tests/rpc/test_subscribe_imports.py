"""Tests of imported events in the daemon-wide stream: a resuming subscriber misses none."""

from tests.fakes.export_documents import SessionLogBuilder, encode_document, three_generations
from tests.fakes.home import WalrusdProcess
from tests.rpc.raw_client import RawClient, open_raw_client
from tests.rpc.test_export_import import echo_document
from tests.rpc.test_methods import call_strictly
from tests.rpc.test_subscribe import events_until, last_offset, next_event, replay


def one_turn_document() -> str:
    chat = SessionLogBuilder(1)
    chat.add_turn("imported")
    return echo_document(chat)


async def test_the_end_of_the_log_is_after_the_imported_events(raw_client: RawClient) -> None:
    before = await last_offset(raw_client)
    session = (await call_strictly(raw_client, "session.import", {"data": one_turn_document()}))["session"]
    *events, daemon_event = await replay(raw_client, since=before)
    assert [(event["session"], event["seq"]) for event in events] == [(session, seq) for seq in range(1, 5)]
    assert (daemon_event["type"], daemon_event["session"], daemon_event["seq"], daemon_event["turn"]) == (
        "session_imported",
        None,
        None,
        None,
    )
    assert (daemon_event["imported"], daemon_event["agent"], daemon_event["offset"]) == (
        session,
        "echo",
        await last_offset(raw_client),
    )
    assert [event["offset"] for event in events] == sorted(event["offset"] for event in events)


async def test_a_follower_is_notified_of_an_import_and_finds_it_by_its_session(
    daemon: WalrusdProcess, raw_client: RawClient
) -> None:
    async with open_raw_client(daemon.socket) as subscriber:
        await subscriber.send_request("event.subscribe", {"types": ["session_imported", "done"]})
        await events_until(subscriber, "state_changed")
        session = (await call_strictly(raw_client, "session.import", {"data": one_turn_document()}))["session"]
        daemon_event = await next_event(subscriber)
    assert (daemon_event["type"], daemon_event["imported"]) == ("session_imported", session)
    assert await replay(raw_client, since=daemon_event["offset"] - 1) == [daemon_event]
    events = await replay(raw_client, since=0, sessions=[session])
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert events[-1]["offset"] < daemon_event["offset"]


async def test_an_import_matches_a_filter_for_its_agent_and_its_ancestors_match_none(raw_client: RawClient) -> None:
    before = await last_offset(raw_client)
    session = (await call_strictly(raw_client, "session.import", {"data": encode_document(three_generations())}))[
        "session"
    ]
    assert {event["session"] for event in await replay(raw_client, since=before)} == {session, None}
    *_, daemon_event = await replay(raw_client, since=before, agents=["walrus"])
    assert (daemon_event["type"], daemon_event["imported"]) == ("session_imported", session)
    assert await replay(raw_client, since=before, agents=["echo"]) == []


async def test_an_agent_known_only_from_a_session_can_be_filtered_for(raw_client: RawClient) -> None:
    before = await last_offset(raw_client)
    data = one_turn_document().replace('"agent":"echo"', '"agent":"left"')
    session = (await call_strictly(raw_client, "session.import", {"data": data}))["session"]
    assert {event["session"] for event in await replay(raw_client, since=before, agents=["left"])} == {session, None}
