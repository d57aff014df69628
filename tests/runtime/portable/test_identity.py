"""Export and import are each other's inverse, but for ids: on any log that can be, and on both stores."""

import json

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.fakes.documents import LONG, REF, Chat, as_text, document, exported, family, imported, with_ids
from tests.fakes.facts import branching, footing, may_follow
from tests.fakes.stores import LogDisk, commit, disk, write
from walrus_protocol.events import Durable, Parent, SessionClosed, SessionCreated, UserMessage, decode_row, encode
from walrusd.runtime.inherited import inherited
from walrusd.session.outline import Outline, advance, stamp
from walrusd.session.session import Session
from walrusd.store.log import Filter, Log, Sent, Span
from walrusd.store.memory import MemoryLog

__all__ = ["disk"]


@st.composite
def any_family(draw: st.DrawFn) -> list[list[Durable]]:
    """Up to three logs, each from a point of the one before it; the last may be in the midst of a turn."""
    logs: list[list[Durable]] = []
    parent: Parent | None = None
    for session in draw(st.lists(st.integers(1, 999), min_size=1, max_size=3, unique=True)):
        log = draw(any_log(session, parent))
        point = footing(log, draw(st.integers(1, len(log))))
        assert point is not None
        parent = Parent(session=session, seq=point.seq, messages=point.messages)
        logs.append(log)
    return logs


@st.composite
def any_log(draw: st.DrawFn, session: int, parent: Parent | None) -> list[Durable]:
    outline, log = Outline(id=session), list[Durable]()
    event: Durable | None = SessionCreated(agent="walrus", title=draw(st.text(max_size=5)), parent=parent)
    for ts in range(draw(st.integers(1, 40))):
        if event is None:
            break
        if isinstance(event, UserMessage):
            event = replace(event, content=event.content or "hi", key=f"key {ts}" if draw(st.booleans()) else None)
        stamped = stamp(outline, event, float(ts))
        outline = advance(outline, stamped)
        log.append(stamped)
        if choices := may_follow(outline, draw):
            choices += [*branching(outline, log, draw)]
        event = draw(st.sampled_from(choices)) if choices else None
    return log


async def keep(log: Log, events: list[Durable]) -> Outline:
    """Write it as the runtime does, event by event."""
    outline = Outline(id=events[0].session or 0)
    for seq, event in enumerate(events, 1):
        before, outline = outline, advance(outline, event)
        one = write(session=outline.id, outline=outline, bodies=[encode(event)], first_seq=seq)
        if isinstance(event, UserMessage):
            assert event.turn is not None
            one.turn_opened = (event.turn, seq) if before.turn is None else None
            one.sent = [Sent(key=event.key, digest=bytes(32), turn=event.turn)] if event.key else []
        elif before.turn and not outline.turn:
            one.turn_ended = (before.turn.number, seq)
        await commit(log, one)
    return outline


async def seen(log: Log, session: int) -> list[object]:
    """What its model is shown."""
    rows = await log.events(session, 0, 1000)
    folded = Session(session)
    for row in rows:
        folded.apply(decode_row(row.body))
    parent = folded.conversation.missing
    before = (await inherited(log, parent)).messages if parent else []
    return [*before, *folded.conversation.own()]


@settings(max_examples=60, deadline=None)
@given(any_family())
def test_an_import_of_an_export_is_the_session_but_for_its_ids(logs: list[list[Durable]]) -> None:
    async def there_and_back() -> None:
        here, there = MemoryLog(), MemoryLog()
        for events in logs:
            outline = await keep(here, events)
        text, said = await exported(here, outline.id)
        told = json.loads(text)
        assert (len(text.encode()), told["session"]["last_seq"]) == (said.bytes, len(told["events"]))
        there.next_session()
        made = await imported(there, text)
        assert made.session == 1 + len(logs)
        again, _ = await exported(there, made.session)
        told["session"]["turn_left_out"] = None
        ids = range(2, 2 + len(logs))
        assert json.dumps(json.loads(again)) == json.dumps(with_ids(json.dumps(told), ids))
        await check_whole(there, made.session)
        if outline.turn is None:
            assert await seen(there, made.session) == await seen(here, outline.id)

    trio.run(there_and_back)


async def check_whole(log: Log, session: int) -> None:
    """What is kept beside the log of an imported session is what the log says; and it is the only one."""
    ((row, queued),) = await log.outlines(Filter(include_closed=True))
    folded, spans = Session(session), dict[int, Span]()
    for stored in await log.events(session, 0, 1000):
        event = decode_row(stored.body)
        turn = folded.turn
        folded.apply(event)
        if turn and not folded.turn:
            spans[turn.number] = Span(turn.first_seq, stored.seq)
        if isinstance(event, UserMessage) and event.key:
            assert await log.sent(session, event.key) == Sent(key=event.key, digest=bytes(32), turn=event.turn)
    assert (row, queued, row.id) == (folded.outline, 0, session)
    assert {turn: await log.span(session, turn) for turn in spans} == spans
    assert await log.span(session, len(spans) + 1) is None
    assert (await log.unfinished(), await log.queue(session), await log.draft(session)) == ([], [], None)


async def test_a_family_with_outputs_keeps_all_that_it_had(disk: LogDisk) -> None:
    log = await disk.open()
    made = await imported(log, as_text(family()))
    assert made.session is not None
    text, said = await exported(log, made.session)
    assert json.loads(text) == with_ids(as_text(family()), [1, 2, 3])
    assert (said.events, said.bytes) == (12 + 4 + 12, len(text.encode()))
    assert await log.output(made.session, REF, 0, 10_000) == LONG.encode()
    assert await log.output(1, REF, 0, 10_000) is None, "an ancestor is no session"
    second = await imported(log, text)
    assert second.session == 6
    assert json.loads((await exported(log, 6))[0]) == with_ids(text, [4, 5, 6])
    await log.aclose()


async def test_of_a_turn_under_way_nothing_is_exported_and_the_document_says_so() -> None:
    log, chat = MemoryLog(), Chat(1)
    chat.turn("one")
    chat.hear(UserMessage(content="two"))
    await keep(log, chat.events)
    told = json.loads((await exported(log, 1))[0])
    assert (told["session"]["turn_left_out"], len(told["events"])) == (2, 4)
    assert (await imported(log, json.dumps(told))).session == 2
    assert json.loads((await exported(log, 2))[0])["session"]["turn_left_out"] is None


async def test_a_closed_session_stays_closed_and_one_of_an_agent_that_is_not_here_says_so() -> None:
    log, chat = MemoryLog(), Chat(1)
    chat.turn("one")
    chat.hear(SessionClosed(by="me"))
    told = document(chat)
    assert (await imported(log, as_text(told))).session == 1
    outline = await log.outline(1)
    assert outline is not None
    assert outline.state == "closed"
    told["session"]["agent"] = told["events"][0]["agent"] = "stranger"
    made = await imported(log, as_text(told))
    assert (made.session, made.agent) == (2, "stranger")
    assert made.warnings == ("there is no agent 'stranger': until there is one, the session can only be read",)


async def test_any_order_of_members_and_any_white_space_will_do(disk: LogDisk) -> None:
    log = await disk.open()
    spread = json.dumps(family(), indent=3, sort_keys=True, ensure_ascii=False)
    assert (await imported(log, spread)).session == 3
    assert json.loads((await exported(log, 3))[0]) == with_ids(as_text(family()), [1, 2, 3])
    rows = await log.events(3, 0, 100)
    assert all(row.body.startswith(b'{"type":"') for row in rows)
    assert [hit.session for hit in await log.search("three")] == [3, 3]
    assert await log.search("two") == [], "what an ancestor said is not searched"
    await log.aclose()


async def test_an_output_that_was_thrown_away_is_left_out() -> None:
    log, told = MemoryLog(), family()
    told["outputs"] = []
    assert (await imported(log, as_text(told))).session == 3
    assert json.loads((await exported(log, 3))[0]) == with_ids(as_text(told), [1, 2, 3])
    assert await log.output(3, REF, 0, 10) is None
