"""Export and import are inverse to each other, except for ids, for every log and on both stores."""

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
from tests.fakes.memory_log import MemoryLog
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
from walrusd.store.contract import Log
from walrusd.store.tables.draft import read_draft
from walrusd.store.tables.idempotency_key import IdempotencyKey, PutKey, read_key
from walrusd.store.tables.inbox import read_inbox
from walrusd.store.tables.output import read_output
from walrusd.store.tables.session import SessionFilter, read_unfinished_sessions
from walrusd.store.tables.table import Mutation
from walrusd.store.tables.turn import AddTurn, PutTurnEnd, TurnSpan, read_turn_span

__all__ = ["disk"]


@st.composite
def fork_chains(draw: st.DrawFn) -> list[list[AnySessionEvent]]:
    """Returns up to three logs, each a fork of the one before it; the last may end within a turn."""
    logs: list[list[AnySessionEvent]] = []
    parent: Parent | None = None
    for session in draw(st.lists(st.integers(1, 999), min_size=1, max_size=3, unique=True)):
        log = draw(valid_log(session, parent))
        resume_point = find_resume_point(log, draw(st.integers(1, len(log))))
        assert resume_point is not None
        parent = Parent(session=session, seq=resume_point.seq, messages=resume_point.messages)
        logs.append(log)
    return logs


@st.composite
def valid_log(draw: st.DrawFn, session: int, parent: Parent | None) -> list[AnySessionEvent]:
    state, log = SessionState(id=session), list[AnySessionEvent]()
    event: AnySessionEvent | None = SessionCreated(agent="walrus", title=draw(st.text(max_size=5)), parent=parent)
    for ts in range(draw(st.integers(1, 40))):
        if event is None:
            break
        if isinstance(event, UserMessage):
            event = replace(event, content=event.content or "hi", key=f"key {ts}" if draw(st.booleans()) else None)
        stamped = fill_derived_fields(state, event, float(ts))
        state = apply_event(state, stamped)
        log.append(stamped)
        if choices := possible_next_events(state, draw):
            choices += [*checkpoint_and_rewind(state, log, draw)]
        event = draw(st.sampled_from(choices)) if choices else None
    return log


async def write_events(log: Log, events: list[AnySessionEvent]) -> SessionState:
    """Writes a log event by event, as the runtime does, and returns the final state."""
    state = SessionState(id=events[0].session or 0)
    for seq, event in enumerate(events, 1):
        before, state = state, apply_event(state, event)
        mutations: list[Mutation] = []
        if isinstance(event, UserMessage):
            assert event.turn is not None
            if before.turn is None:
                mutations.append(AddTurn(event.turn, seq))
            if event.key:
                mutations.append(PutKey(IdempotencyKey(key=event.key, digest=bytes(32), turn=event.turn)))
        elif before.turn and not state.turn:
            mutations.append(PutTurnEnd(before.turn.number, seq))
        await commit(
            log,
            write(session=state.id, session_state=state, bodies=[encode(event)], first_seq=seq, mutations=mutations),
        )
    return state


async def visible_messages(log: Log, session: int) -> list[object]:
    """Returns the messages that the model is sent."""
    rows = await log.events(session, 0, 1000)
    replayed = Session(session)
    for row in rows:
        replayed.apply(decode_row(row.body))
    parent = replayed.conversation.missing_parent
    before = (await read_inherited(log, parent)).messages if parent else []
    return [*before, *replayed.conversation.own_messages()]


@settings(max_examples=60, deadline=None)
@given(fork_chains())
def test_an_import_of_an_export_is_the_same_session_except_for_its_ids(logs: list[list[AnySessionEvent]]) -> None:
    async def export_and_import() -> None:
        source, target = MemoryLog(), MemoryLog()
        for events in logs:
            state = await write_events(source, events)
        text, result = await export_to_text(source, state.id)
        document = json.loads(text)
        assert (len(text.encode()), document["session"]["last_seq"]) == (result.bytes, len(document["events"]))
        target.next_session()
        imported = await import_text(target, text)
        assert imported.session == 1 + len(logs)
        exported_again, _ = await export_to_text(target, imported.session)
        document["session"]["turn_left_out"] = None
        ids = range(2, 2 + len(logs))
        assert json.dumps(json.loads(exported_again)) == json.dumps(with_ids(json.dumps(document), ids))
        await check_side_rows(target, imported.session)
        if state.turn is None:
            assert await visible_messages(target, imported.session) == await visible_messages(source, state.id)

    trio.run(export_and_import)


async def check_side_rows(log: Log, session: int) -> None:
    """Asserts that the rows beside an imported log match it, and that it is the only session."""
    ((row, queued),) = await log.list_sessions(SessionFilter(include_closed=True))
    replayed, spans = Session(session), dict[int, TurnSpan]()
    for stored in await log.events(session, 0, 1000):
        event = decode_row(stored.body)
        turn = replayed.turn
        replayed.apply(event)
        if turn and not replayed.turn:
            spans[turn.number] = TurnSpan(turn.first_seq, stored.seq)
        if isinstance(event, UserMessage) and event.key:
            assert await log.read(read_key, session, event.key) == IdempotencyKey(
                key=event.key, digest=bytes(32), turn=event.turn
            )
    assert (row, queued, row.id) == (replayed.state, 0, session)
    assert {turn: await log.read(read_turn_span, session, turn) for turn in spans} == spans
    assert await log.read(read_turn_span, session, len(spans) + 1) is None
    assert (
        await log.read(read_unfinished_sessions),
        await log.read(read_inbox, session),
        await log.read(read_draft, session),
    ) == ([], [], None)


async def test_a_fork_chain_with_outputs_keeps_all_that_it_had(disk: LogDisk) -> None:
    log = await disk.open()
    imported = await import_text(log, encode_document(three_generations()))
    assert imported.session is not None
    text, result = await export_to_text(log, imported.session)
    assert json.loads(text) == with_ids(encode_document(three_generations()), [1, 2, 3])
    assert (result.events, result.bytes) == (12 + 4 + 12, len(text.encode()))
    assert await log.read(read_output, imported.session, LONG_OUTPUT_REF, 0, 10_000) == LONG_OUTPUT.encode()
    assert await log.read(read_output, 1, LONG_OUTPUT_REF, 0, 10_000) is None, "an ancestor is not listed"
    second = await import_text(log, text)
    assert second.session == 6
    assert json.loads((await export_to_text(log, 6))[0]) == with_ids(text, [4, 5, 6])
    await log.aclose()


async def test_an_open_turn_is_not_exported_and_the_document_says_so() -> None:
    log, chat = MemoryLog(), SessionLogBuilder(1)
    chat.add_turn("one")
    chat.append(UserMessage(content="two"))
    await write_events(log, chat.events)
    document = json.loads((await export_to_text(log, 1))[0])
    assert (document["session"]["turn_left_out"], len(document["events"])) == (2, 4)
    assert (await import_text(log, json.dumps(document))).session == 2
    assert json.loads((await export_to_text(log, 2))[0])["session"]["turn_left_out"] is None


async def test_a_closed_session_stays_closed_and_a_missing_agent_is_reported() -> None:
    log, chat = MemoryLog(), SessionLogBuilder(1)
    chat.add_turn("one")
    chat.append(SessionClosed(by="me"))
    document = build_document(chat)
    assert (await import_text(log, encode_document(document))).session == 1
    state = await log.session_state(1)
    assert state is not None
    assert state.state == "closed"
    document["session"]["agent"] = document["events"][0]["agent"] = "stranger"
    imported = await import_text(log, encode_document(document))
    assert (imported.session, imported.agent) == (2, "stranger")
    assert imported.warnings == (
        "there is no agent 'stranger': the session can only be read until this agent is defined",
    )


async def test_members_in_any_order_with_any_white_space_are_accepted(disk: LogDisk) -> None:
    log = await disk.open()
    spread = json.dumps(three_generations(), indent=3, sort_keys=True, ensure_ascii=False)
    assert (await import_text(log, spread)).session == 3
    assert json.loads((await export_to_text(log, 3))[0]) == with_ids(encode_document(three_generations()), [1, 2, 3])
    rows = await log.events(3, 0, 100)
    assert all(row.body.startswith(b'{"type":"') for row in rows)
    assert [hit.session for hit in await log.search("three")] == [3, 3]
    assert await log.search("two") == [], "messages of an ancestor are not searched"
    await log.aclose()


async def test_a_deleted_output_is_left_out() -> None:
    log, document = MemoryLog(), three_generations()
    document["outputs"] = []
    assert (await import_text(log, encode_document(document))).session == 3
    assert json.loads((await export_to_text(log, 3))[0]) == with_ids(encode_document(document), [1, 2, 3])
    assert await log.read(read_output, 3, LONG_OUTPUT_REF, 0, 10) is None
