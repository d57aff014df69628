"""Tests of session.fork, rewind, checkpoint and checkpoints: exact answers, errors and order."""

import pytest

from tests.rpc.raw_client import Json, RawClient, request
from tests.rpc.test_methods import NO_USAGE, call_strictly, new_session
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.methods.fork_rewind import CheckpointListParams, CheckpointParams

EVENTS_PER_TURN = 3
"""Number of logged events of a turn of the echo agent."""


async def send_texts(raw_client: RawClient, session: int, *texts: str) -> None:
    for text in texts:
        await call_strictly(raw_client, "session.send", {"session": session, "content": text})


async def user_texts(raw_client: RawClient, session: int) -> list[str]:
    """Returns the user messages that the model sees."""
    messages = (await call_strictly(raw_client, "session.history", {"session": session}))["messages"]
    return [message["content"] for message in messages if message["role"] == "user"]


async def test_a_fork_is_a_new_session_that_begins_with_its_parents_conversation(raw_client: RawClient) -> None:
    parent = await new_session(raw_client)
    await send_texts(raw_client, parent, "one", "two")
    forked = await call_strictly(raw_client, "session.fork", {"session": parent, "at": 1 + EVENTS_PER_TURN})
    assert forked == {"session": forked["session"], "at": 4}
    child = forked["session"]
    await send_texts(raw_client, child, "zwei")
    assert (await user_texts(raw_client, child), await user_texts(raw_client, parent)) == (
        ["one", "zwei"],
        ["one", "two"],
    )
    shown = await call_strictly(raw_client, "session.get", {"session": child})
    assert {name: shown[name] for name in ("parent", "messages", "last_seq", "created_by", "state", "usage")} == {
        "parent": {"session": parent, "seq": 4},
        "messages": 4,
        "last_seq": 4,
        "created_by": "client",
        "state": "idle",
        "usage": NO_USAGE,
    }


async def test_attaching_to_a_fork_sends_only_its_own_events(raw_client: RawClient) -> None:
    parent = await new_session(raw_client)
    await send_texts(raw_client, parent, "one")
    child = (await call_strictly(raw_client, "session.fork", {"session": parent}))["session"]
    await raw_client.send_request("session.attach", {"session": child, "follow": False})
    events, _ = await raw_client.receive_events()
    assert [event["type"] for event in events] == ["session_created"]
    assert events[0]["parent"] == {"session": parent, "seq": 4, "messages": 2}


async def test_a_rewind_is_an_event_and_can_itself_be_undone(raw_client: RawClient) -> None:
    session = await new_session(raw_client)
    await send_texts(raw_client, session, "one", "two")
    assert await call_strictly(raw_client, "session.rewind", {"session": session, "to": 4}) == {"last_seq": 8, "to": 4}
    assert await user_texts(raw_client, session) == ["one"]
    assert await call_strictly(raw_client, "session.rewind", {"session": session, "to": 7}) == {"last_seq": 9, "to": 7}
    assert await user_texts(raw_client, session) == ["one", "two"]
    await raw_client.send_request("session.attach", {"session": session, "since": 7, "follow": False})
    events, _ = await raw_client.receive_events()
    assert [(event["type"], event["turn"], event["to"], event["messages"]) for event in events] == [
        ("rewound", None, 4, 2),
        ("rewound", None, 7, 4),
    ]


async def test_checkpoints_are_made_and_listed_page_by_page(client: AsyncClient, raw_client: RawClient) -> None:
    session = await new_session(raw_client)
    for name in ("a", "b", "c", "a"):
        await client.checkpoint(CheckpointParams(session=session, name=name))
    await send_texts(raw_client, session, "one")
    assert await call_strictly(raw_client, "session.checkpoint", {"session": session, "name": "b"}) == {"at": 8}
    first = await client.checkpoints(CheckpointListParams(session=session, limit=2))
    second = await client.checkpoints(CheckpointListParams(session=session, limit=2, cursor=first.cursor))
    assert [[(one.name, one.at) for one in page.checkpoints] for page in (first, second)] == [
        [("c", 3), ("a", 4)],
        [("b", 8)],
    ]
    assert second.cursor is None
    assert second.checkpoints[0].ts > first.checkpoints[0].ts


async def test_many_long_checkpoint_names_are_split_into_pages_that_fit(
    client: AsyncClient, raw_client: RawClient
) -> None:
    session = await new_session(raw_client)
    names = [f"{number} " + "🦭" * 250 for number in range(900)]
    await raw_client.send(
        *(
            request("session.checkpoint", {"session": session, "name": name}, number)
            for number, name in enumerate(names, 1)
        )
    )
    for _ in names:
        assert "result" in await raw_client.receive()
    found: list[str] = []
    params = CheckpointListParams(session=session, limit=500)
    while True:
        page = await client.checkpoints(params)
        found += [one.name for one in page.checkpoints]
        if page.cursor is None:
            break
        params = CheckpointListParams(session=session, limit=500, cursor=page.cursor)
    assert found == names


async def test_requests_of_one_connection_for_a_session_take_effect_in_order(raw_client: RawClient) -> None:
    session = await new_session(raw_client)
    await send_texts(raw_client, session, "one")
    await raw_client.send(
        request("session.checkpoint", {"session": session, "name": "here"}, 11),
        request("session.rewind", {"session": session, "to": 1}, 12),
        request("session.fork", {"session": session}, 13),
        request("session.send", {"session": session, "content": "eins"}, 14),
        request("session.checkpoint", {"session": session, "name": "there"}, 15),
        request("session.close", {"session": session}, 16),
        request("session.rewind", {"session": session, "to": 1}, 17),
    )
    answers = {answer["id"]: answer for answer in [await raw_client.receive() for _ in range(7)]}
    assert (answers[11]["result"], answers[12]["result"]) == ({"at": 4}, {"last_seq": 6, "to": 1})
    assert answers[13]["result"]["at"] == 6
    assert await user_texts(raw_client, answers[13]["result"]["session"]) == []
    assert answers[14]["result"]["first_seq"] == 7
    assert 7 <= answers[15]["result"]["at"] <= 9
    assert (answers[16]["result"], answers[17]["error"]["data"]["kind"]) == ({"closed": True}, "session_closed")
    assert await user_texts(raw_client, session) == ["eins"]


@pytest.mark.parametrize(
    ("method", "params", "kind", "message", "hint"),
    [
        ("session.fork", {"session": 999_999}, "session_not_found", "999999", "session list"),
        ("session.rewind", {"session": 999_999, "to": 1}, "session_not_found", "999999", "session list"),
        ("session.checkpoint", {"session": 999_999, "name": "x"}, "session_not_found", "999999", "session list"),
        ("session.checkpoints", {"session": 999_999}, "session_not_found", "999999", "session list"),
        ("session.fork", {"at": 2}, "offset_in_future", "ends at seq 1, before 2", "session attach"),
        ("session.rewind", {"to": 2}, "offset_in_future", "ends at seq 1, before 2", "session attach"),
        ("session.rewind", {"to": 0}, "invalid_params", "to: ", "session.rewind takes"),
        ("session.rewind", {}, "invalid_params", "to", "session, to"),
        ("session.fork", {"at": "start"}, "invalid_params", "at: expected integer or null", "session.fork takes"),
        ("session.fork", {"to": 1}, "invalid_params", "unknown param 'to'", "session, at"),
        ("session.checkpoint", {"name": ""}, "invalid_params", "name: ", "session.checkpoint takes"),
        ("session.checkpoint", {"name": "12"}, "invalid_params", "'12' is a number", "seqs"),
        ("session.checkpoint", {"name": " "}, "invalid_params", "' ' has misplaced white space", "white space"),
        ("session.checkpoint", {"name": "a  b"}, "invalid_params", "'a  b' has misplaced white space", "white space"),
        ("session.checkpoint", {"name": "a\nb"}, "invalid_params", "'a\\nb' has misplaced white space", "white space"),
        ("session.checkpoint", {"name": "\x1b[31mred"}, "invalid_params", "has misplaced white", "control characters"),
        ("session.checkpoint", {"name": "\x9b1m"}, "invalid_params", "misplaced white space", "control characters"),
        ("session.checkpoints", {"cursor": "x"}, "invalid_params", "cursor: 'x'", "unchanged"),
    ],
)
async def test_an_impossible_fork_rewind_or_checkpoint_is_refused_with_a_hint(
    raw_client: RawClient, method: str, params: Json, kind: str, message: str, hint: str
) -> None:
    session = await new_session(raw_client)
    error = (await raw_client.call(method, {"session": session, **params}))["error"]
    assert (error["data"]["kind"], message in error["message"], hint in error["data"]["hint"]) == (kind, True, True), (
        error
    )
