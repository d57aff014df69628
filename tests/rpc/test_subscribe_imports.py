"""What a document brings in, as those see it who watch the whole daemon: nobody who remembers an offset misses it."""

from tests.fakes.documents import Chat, as_text, family
from tests.fakes.home import Walrusd
from tests.rpc.raw import Raw, raw
from tests.rpc.test_methods import answered
from tests.rpc.test_portable import echoes
from tests.rpc.test_subscribe import end, next_event, replay, until


def one_turn() -> str:
    chat = Chat(1)
    chat.turn("brought along")
    return echoes(chat)


async def test_the_end_of_the_log_lies_behind_what_was_imported(line: Raw) -> None:
    before = await end(line)
    session = (await answered(line, "session.import", {"data": one_turn()}))["session"]
    *events, fact = await replay(line, since=before)
    assert [(event["session"], event["seq"]) for event in events] == [(session, seq) for seq in range(1, 5)]
    assert (fact["type"], fact["session"], fact["seq"], fact["turn"]) == ("session_imported", None, None, None)
    assert (fact["imported"], fact["agent"], fact["offset"]) == (session, "echo", await end(line))
    assert [event["offset"] for event in events] == sorted(event["offset"] for event in events)


async def test_who_follows_is_told_of_it_and_finds_it_by_its_session(daemon: Walrusd, line: Raw) -> None:
    async with raw(daemon.socket) as watching:
        await watching.ask("event.subscribe", {"types": ["session_imported", "done"]})
        await until(watching, "state_changed")
        session = (await answered(line, "session.import", {"data": one_turn()}))["session"]
        fact = await next_event(watching)
    assert (fact["type"], fact["imported"]) == ("session_imported", session)
    assert await replay(line, since=fact["offset"] - 1) == [fact]
    events = await replay(line, since=0, sessions=[session])
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert events[-1]["offset"] < fact["offset"]


async def test_it_is_among_what_its_agent_does_and_its_ancestors_are_nobodys(line: Raw) -> None:
    before = await end(line)
    session = (await answered(line, "session.import", {"data": as_text(family())}))["session"]
    assert {event["session"] for event in await replay(line, since=before)} == {session, None}
    *_, fact = await replay(line, since=before, agents=["walrus"])
    assert (fact["type"], fact["imported"]) == ("session_imported", session)
    assert await replay(line, since=before, agents=["echo"]) == []


async def test_an_agent_that_only_a_session_knows_can_be_chosen(line: Raw) -> None:
    before = await end(line)
    data = one_turn().replace('"agent":"echo"', '"agent":"left"')
    session = (await answered(line, "session.import", {"data": data}))["session"]
    assert {event["session"] for event in await replay(line, since=before, agents=["left"])} == {session, None}
