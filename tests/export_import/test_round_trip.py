"""Export and import are each other's inverse, but for ids: on any log that can be, and on both stores."""

import json

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.fakes.event_strategies import checkpoint_and_rewind, find_resume_point, possible_next_events
from tests.fakes.export_documents import (
    LONG_OUTPUT,
    LONG_OUTPUT_REF,
    SessionLogBuilder,
    build_document,
    encode_document,
    export_to_text,
    import_text,
    three_generations,
    with_ids,
)
from tests.fakes.stores import LogDisk, commit, disk, write
from walrus_protocol.events import (
    AnySessionEvent,
    Parent,
    SessionClosed,
    SessionCreated,
    UserMessage,
    decode_row,
    encode,
)
from walrusd.runtime.sessions.fork_history import read_inherited
from walrusd.session.session import Session
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields
from walrusd.store.contract import IdempotencyKey, Log, SessionFilter, TurnSpan
from walrusd.store.memory import MemoryLog

__all__ = ["disk"]


@st.composite
def fork_chains(draw: st.DrawFn) -> list[list[AnySessionEvent]]:
    """Up to three logs, each from a point of the one before it; the last may be in the midst of a turn."""
    logs: list[list[AnySessionEvent]] = []
    parent: Parent | None = None
    for session in draw(st.lists(st.integers(1, 999), min_size=1, max_size=3, unique=True)):
        log = draw(valid_log(session, parent))
        point = find_resume_point(log, draw(st.integers(1, len(log))))
        assert point is not None
        parent = Parent(session=session, seq=point.seq, messages=point.messages)
        logs.append(log)
    return logs


@st.composite
def valid_log(draw: st.DrawFn, session: int, parent: Parent | None) -> list[AnySessionEvent]:
    outline, log = SessionState(id=session), list[AnySessionEvent]()
    event: AnySessionEvent | None = SessionCreated(agent="walrus", title=draw(st.text(max_size=5)), parent=parent)
    for ts in range(draw(st.integers(1, 40))):
        if event is None:
            break
        if isinstance(event, UserMessage):
            event = replace(event, content=event.content or "hi", key=f"key {ts}" if draw(st.booleans()) else None)
        stamped = fill_derived_fields(outline, event, float(ts))
        outline = apply_event(outline, stamped)
        log.append(stamped)
        if choices := possible_next_events(outline, draw):
            choices += [*checkpoint_and_rewind(outline, log, draw)]
        event = draw(st.sampled_from(choices)) if choices else None
    return log


async def write_events(log: Log, events: list[AnySessionEvent]) -> SessionState:
    """Write it as the runtime does, event by event."""
    outline = SessionState(id=events[0].session or 0)
    for seq, event in enumerate(events, 1):
        before, outline = outline, apply_event(outline, event)
        one = write(session=outline.id, session_state=outline, bodies=[encode(event)], first_seq=seq)
        if isinstance(event, UserMessage):
            assert event.turn is not None
            one.turn_opened = (event.turn, seq) if before.turn is None else None
            one.idempotency_keys = (
                [IdempotencyKey(key=event.key, digest=bytes(32), turn=event.turn)] if event.key else []
            )
        elif before.turn and not outline.turn:
            one.turn_ended = (before.turn.number, seq)
        await commit(log, one)
    return outline


async def visible_messages(log: Log, session: int) -> list[object]:
    """What its model is shown."""
    rows = await log.events(session, 0, 1000)
    folded = Session(session)
    for row in rows:
        folded.apply(decode_row(row.body))
    parent = folded.conversation.missing_parent
    before = (await read_inherited(log, parent)).messages if parent else []
    return [*before, *folded.conversation.own_messages()]


@settings(max_examples=60, deadline=None)
@given(fork_chains())
def test_an_import_of_an_export_is_the_same_session_except_for_its_ids(logs: list[list[AnySessionEvent]]) -> None:
    async def there_and_back() -> None:
        here, there = MemoryLog(), MemoryLog()
        for events in logs:
            outline = await write_events(here, events)
        text, said = await export_to_text(here, outline.id)
        told = json.loads(text)
        assert (len(text.encode()), told["session"]["last_seq"]) == (said.bytes, len(told["events"]))
        there.next_session()
        made = await import_text(there, text)
        assert made.session == 1 + len(logs)
        again, _ = await export_to_text(there, made.session)
        told["session"]["turn_left_out"] = None
        ids = range(2, 2 + len(logs))
        assert json.dumps(json.loads(again)) == json.dumps(with_ids(json.dumps(told), ids))
        await check_side_rows(there, made.session)
        if outline.turn is None:
            assert await visible_messages(there, made.session) == await visible_messages(here, outline.id)

    trio.run(there_and_back)


async def check_side_rows(log: Log, session: int) -> None:
    """What is kept beside the log of an imported session is what the log says; and it is the only one."""
    ((row, queued),) = await log.list_sessions(SessionFilter(include_closed=True))
    folded, spans = Session(session), dict[int, TurnSpan]()
    for stored in await log.events(session, 0, 1000):
        event = decode_row(stored.body)
        turn = folded.turn
        folded.apply(event)
        if turn and not folded.turn:
            spans[turn.number] = TurnSpan(turn.first_seq, stored.seq)
        if isinstance(event, UserMessage) and event.key:
            assert await log.idempotency_key(session, event.key) == IdempotencyKey(
                key=event.key, digest=bytes(32), turn=event.turn
            )
    assert (row, queued, row.id) == (folded.state, 0, session)
    assert {turn: await log.turn_span(session, turn) for turn in spans} == spans
    assert await log.turn_span(session, len(spans) + 1) is None
    assert (await log.unfinished_sessions(), await log.inbox(session), await log.draft(session)) == ([], [], None)


async def test_a_fork_chain_with_outputs_keeps_all_that_it_had(disk: LogDisk) -> None:
    log = await disk.open()
    made = await import_text(log, encode_document(three_generations()))
    assert made.session is not None
    text, said = await export_to_text(log, made.session)
    assert json.loads(text) == with_ids(encode_document(three_generations()), [1, 2, 3])
    assert (said.events, said.bytes) == (12 + 4 + 12, len(text.encode()))
    assert await log.output(made.session, LONG_OUTPUT_REF, 0, 10_000) == LONG_OUTPUT.encode()
    assert await log.output(1, LONG_OUTPUT_REF, 0, 10_000) is None, "an ancestor is no session"
    second = await import_text(log, text)
    assert second.session == 6
    assert json.loads((await export_to_text(log, 6))[0]) == with_ids(text, [4, 5, 6])
    await log.aclose()


async def test_an_open_turn_is_not_exported_and_the_document_says_so() -> None:
    log, chat = MemoryLog(), SessionLogBuilder(1)
    chat.add_turn("one")
    chat.append(UserMessage(content="two"))
    await write_events(log, chat.events)
    told = json.loads((await export_to_text(log, 1))[0])
    assert (told["session"]["turn_left_out"], len(told["events"])) == (2, 4)
    assert (await import_text(log, json.dumps(told))).session == 2
    assert json.loads((await export_to_text(log, 2))[0])["session"]["turn_left_out"] is None


async def test_a_closed_session_stays_closed_and_one_of_an_agent_that_is_not_here_says_so() -> None:
    log, chat = MemoryLog(), SessionLogBuilder(1)
    chat.add_turn("one")
    chat.append(SessionClosed(by="me"))
    told = build_document(chat)
    assert (await import_text(log, encode_document(told))).session == 1
    outline = await log.session_state(1)
    assert outline is not None
    assert outline.state == "closed"
    told["session"]["agent"] = told["events"][0]["agent"] = "stranger"
    made = await import_text(log, encode_document(told))
    assert (made.session, made.agent) == (2, "stranger")
    assert made.warnings == ("there is no agent 'stranger': until there is one, the session can only be read",)


async def test_any_order_of_members_and_any_white_space_will_do(disk: LogDisk) -> None:
    log = await disk.open()
    spread = json.dumps(three_generations(), indent=3, sort_keys=True, ensure_ascii=False)
    assert (await import_text(log, spread)).session == 3
    assert json.loads((await export_to_text(log, 3))[0]) == with_ids(encode_document(three_generations()), [1, 2, 3])
    rows = await log.events(3, 0, 100)
    assert all(row.body.startswith(b'{"type":"') for row in rows)
    assert [hit.session for hit in await log.search("three")] == [3, 3]
    assert await log.search("two") == [], "what an ancestor said is not searched"
    await log.aclose()


async def test_a_deleted_output_is_left_out() -> None:
    log, told = MemoryLog(), three_generations()
    told["outputs"] = []
    assert (await import_text(log, encode_document(told))).session == 3
    assert json.loads((await export_to_text(log, 3))[0]) == with_ids(encode_document(told), [1, 2, 3])
    assert await log.output(3, LONG_OUTPUT_REF, 0, 10) is None
