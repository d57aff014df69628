"""The interface of `walrusd.store.contract`, tested on every store."""

import pytest
import trio

from tests.fakes.stores import LogDisk, commit, submit_all, write
from walrus_protocol.content import ImagePart, TextPart
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState, TurnState
from walrusd.store.contract import Log
from walrusd.store.errors import StorageFailed
from walrusd.store.tables.draft import DropDraft, SaveDraft, read_draft
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.idempotency_key import (
    AddCreateKey,
    IdempotencyKey,
    PutKey,
    read_key,
    read_session_created_with,
)
from walrusd.store.tables.inbox import Dequeue, Enqueue, InboxEntry, read_inbox
from walrusd.store.tables.session import (
    SessionFilter,
    SessionSnapshot,
    read_open_session_count,
    read_unfinished_sessions,
)
from walrusd.store.tables.turn import AddTurn, PutTurnEnd, TurnSpan, read_turn_span


async def test_events_are_read_back_with_their_seq_and_offset(log: Log) -> None:
    assert await commit(log, write(session=1, bodies=[b'{"a":1}', b'{"b":2}'], first_seq=1)) == [1]
    assert await commit(log, write(session=2, bodies=[b'{"c":3}'], first_seq=1)) == [3]
    assert await commit(log, write(session=1, bodies=[b'{"d":4}'], first_seq=3)) == [4]
    assert await log.events(1, 0, 10) == [
        EventRow(1, 1, b'{"a":1}'),
        EventRow(2, 2, b'{"b":2}'),
        EventRow(3, 4, b'{"d":4}'),
    ]
    assert await log.events(1, 2, 10) == [EventRow(3, 4, b'{"d":4}')]
    assert await log.events(1, 3, 10) == []
    assert await log.events(3, 0, 10) == []


async def test_offsets_and_callbacks_come_in_the_order_of_submission(log: Log) -> None:
    batch = [write(session=s, bodies=[b"1", b"22"], first_seq=1 + 2 * n) for n in range(40) for s in (1, 2, 3)]
    assert await commit(log, *batch) == list(range(1, 241, 2))


async def test_a_page_ends_at_its_limit_or_size_but_has_at_least_one_event(log: Log) -> None:
    bodies = [b"x" * 100, b"y" * 50, b"z" * 50, b"w" * 50]
    await commit(log, write(session=1, bodies=bodies, first_seq=1))

    async def seqs(since: int, limit: int, max_bytes: int) -> list[int]:
        return [row.seq for row in await log.events(1, since, limit, max_bytes)]

    assert await seqs(0, 2, 1000) == [1, 2]
    assert await seqs(0, 10, 199) == [1, 2]
    assert await seqs(0, 10, 200) == [1, 2, 3]
    assert await seqs(0, 10, 1) == [1]
    assert await seqs(1, 10, 1) == [2]
    assert await seqs(0, 0, 1000) == []


async def test_bodies_come_back_byte_by_byte(log: Log) -> None:
    bodies = [bytes(range(256)), b"\x00", b"\n,", "é漢🦭".encode(), b"x" * 300_000]
    await commit(log, write(session=1, bodies=bodies, first_seq=1))
    assert [row.body for row in await log.events(1, 0, 10)] == bodies


async def test_the_inbox_is_read_in_order_of_place_without_dequeued_entries(log: Log) -> None:
    first = InboxEntry(place=1, kind="message", content="hi", sender="me", key="k", timeout_s=2.5)
    picture = InboxEntry(place=2, kind="steer", content=(TextPart("see"), ImagePart(url="http://x/y")))
    close = InboxEntry(place=3, kind="close")
    urgent = InboxEntry(place=-1, kind="message", content="now")
    await commit(
        log,
        write(session=1, mutations=[Enqueue(first), Enqueue(close)]),
        write(session=1, mutations=[Enqueue(urgent), Enqueue(picture)]),
    )
    assert await log.read(read_inbox, 1) == [urgent, first, picture, close]
    await commit(log, write(session=1, mutations=[Dequeue(-1), Dequeue(2), Dequeue(77)]))
    assert await log.read(read_inbox, 1) == [first, close]
    assert await log.read(read_inbox, 2) == []


async def test_a_session_snapshot_is_read_in_one_call(log: Log) -> None:
    draft = Draft(turn=1, round=1, text="Once")
    queued = InboxEntry(place=1, kind="message", content="next")
    state = SessionState(id=1, state="processing", last_seq=3, turn=TurnState(number=1, first_seq=2, started_at=0.0))
    await commit(
        log,
        write(
            session=1,
            session_state=state,
            bodies=[b"1", b"2", b"3"],
            first_seq=1,
            mutations=[Enqueue(queued), SaveDraft(draft)],
        ),
    )
    rows = await log.events(1, 0, 10)
    assert await log.session_snapshot(1, 10) == SessionSnapshot(rows=rows, last_seq=3, inbox=[queued], draft=draft)
    assert await log.session_snapshot(1, 2) == SessionSnapshot(rows=rows[:2], last_seq=3, inbox=[queued], draft=draft)
    assert await log.session_snapshot(2, 10) is None


async def test_an_inbox_place_can_be_reused_in_the_same_batch(log: Log) -> None:
    first, second = InboxEntry(place=1, kind="message", content="a"), InboxEntry(place=1, kind="message", content="b")
    await commit(
        log,
        write(session=1, mutations=[Enqueue(first)]),
        write(session=1, mutations=[Dequeue(1)]),
        write(session=1, mutations=[Enqueue(second)]),
    )
    assert await log.read(read_inbox, 1) == [second]


async def test_a_message_can_be_enqueued_and_dequeued_in_one_write(log: Log) -> None:
    await commit(log, write(session=1, mutations=[Enqueue(InboxEntry(place=1, kind="message")), Dequeue(1)]))
    assert await log.read(read_inbox, 1) == []


async def test_an_idempotency_key_is_stored_and_later_gets_its_turn(log: Log) -> None:
    waiting = IdempotencyKey(key="k", digest=b"\x01\x02")
    await commit(
        log, write(session=1, mutations=[PutKey(waiting), PutKey(IdempotencyKey(key="other", digest=b"", turn=1))])
    )
    assert await log.read(read_key, 1, "k") == waiting
    assert await log.read(read_key, 2, "k") is None
    await commit(log, write(session=1, mutations=[PutKey(IdempotencyKey(key="k", digest=b"\x01\x02", turn=7))]))
    assert await log.read(read_key, 1, "k") == IdempotencyKey(key="k", digest=b"\x01\x02", turn=7)


async def test_the_key_of_a_session_create_is_daemon_wide(log: Log) -> None:
    await commit(log, write(session=4, mutations=[AddCreateKey("k", b"d")]))
    assert await log.read(read_session_created_with, "k") == (4, b"d")
    assert await log.read(read_session_created_with, "none") is None
    (outcome,) = await submit_all(log, write(session=5, mutations=[AddCreateKey("k", b"d")]))
    assert isinstance(outcome, StorageFailed)


async def test_a_turn_span_ends_with_the_turn(log: Log) -> None:
    await commit(log, write(session=1, mutations=[AddTurn(1, 2)]))
    assert await log.read(read_turn_span, 1, 1) == TurnSpan(2, None)
    await commit(log, write(session=1, mutations=[PutTurnEnd(1, 9), AddTurn(2, 10)]))
    assert [await log.read(read_turn_span, 1, turn) for turn in (1, 2, 3)] == [TurnSpan(2, 9), TurnSpan(10, None), None]


async def test_a_draft_stays_until_it_is_replaced_or_dropped(log: Log) -> None:
    await commit(log, write(session=1, mutations=[SaveDraft(Draft(turn=1, round=1, text="Once", model="m"))]))
    await commit(log, write(session=1, bodies=[b"{}"], first_seq=1))
    assert await log.read(read_draft, 1) == Draft(turn=1, round=1, text="Once", model="m")
    await commit(log, write(session=1, mutations=[SaveDraft(Draft(turn=1, round=1, text="Once upon", thinking="hm"))]))
    assert await log.read(read_draft, 1) == Draft(turn=1, round=1, text="Once upon", thinking="hm")
    await commit(log, write(session=1, mutations=[DropDraft()]))
    assert await log.read(read_draft, 1) is None


async def test_the_session_state_is_the_last_that_was_written(log: Log) -> None:
    turn = TurnState(number=1, first_seq=2, started_at=1.5)
    first = SessionState(id=1, state="processing", agent="a", title="t", created_at=1.0, last_seq=2, turn=turn)
    await commit(log, write(session=1, session_state=first))
    assert await log.session_state(1) == first
    last = SessionState(id=1, state="idle", agent="a", title="t", created_at=1.0, last_seq=5, cost_usd=None)
    await commit(log, write(session=1, session_state=last), write(session=1))
    assert await log.session_state(1) == last
    assert await log.session_state(2) is None


async def test_sessions_are_listed_newest_first_with_their_queued_messages(log: Log) -> None:
    a1 = SessionState(id=1, state="idle", agent="a")
    b2 = SessionState(id=2, state="closed", agent="b")
    a3 = SessionState(id=3, state="error", agent="a")
    a4 = SessionState(id=4, state="closed", agent="a")
    b5 = SessionState(id=5, state="idle", agent="b")
    await commit(log, *(write(session=o.id, session_state=o) for o in (a1, b2, a3, a4, b5)))
    await commit(
        log,
        write(session=3, mutations=[*(Enqueue(InboxEntry(place=n, kind="message")) for n in (1, 2))]),
        write(session=5, mutations=[Enqueue(InboxEntry(place=1, kind="close"))]),
    )
    listed = log.list_sessions
    assert await listed(SessionFilter()) == [(b5, 0), (a3, 2), (a1, 0)]
    assert await listed(SessionFilter(include_closed=True)) == [(b5, 0), (a4, 0), (a3, 2), (b2, 0), (a1, 0)]
    assert await listed(SessionFilter(agent="a")) == [(a3, 2), (a1, 0)]
    assert await listed(SessionFilter(agent="a", include_closed=True)) == [(a4, 0), (a3, 2), (a1, 0)]
    assert await listed(SessionFilter(state="idle")) == [(b5, 0), (a1, 0)]
    assert await listed(SessionFilter(state="closed")) == [(a4, 0), (b2, 0)]
    assert await listed(SessionFilter(agent="b", state="closed")) == [(b2, 0)]
    assert await listed(SessionFilter(agent="c")) == []
    assert await listed(SessionFilter(limit=2)) == [(b5, 0), (a3, 2)]
    assert await listed(SessionFilter(limit=2, before=3, include_closed=True)) == [(b2, 0), (a1, 0)]


async def test_unfinished_sessions_have_an_open_turn_or_a_non_empty_inbox(log: Log) -> None:
    turn = TurnState(number=1, first_seq=2, started_at=1.0)
    await commit(
        log,
        write(session=1, session_state=SessionState(id=1, state="idle")),
        write(session=2, session_state=SessionState(id=2, state="processing", turn=turn)),
        write(
            session=3,
            session_state=SessionState(id=3, state="idle"),
            mutations=[Enqueue(InboxEntry(place=1, kind="close"))],
        ),
        write(session=4, session_state=SessionState(id=4, state="processing", turn=turn)),
        write(session=4, session_state=SessionState(id=4, state="idle")),
        write(
            session=5,
            session_state=SessionState(id=5, state="processing", turn=turn),
            mutations=[Enqueue(InboxEntry(place=1, kind="steer"))],
        ),
    )
    assert await log.read(read_unfinished_sessions) == [2, 3, 5]


async def test_the_count_of_open_sessions_falls_when_one_is_closed(log: Log) -> None:
    assert await log.read(read_open_session_count) == 0
    await commit(log, *(write(session=s, session_state=SessionState(id=s, state="idle")) for s in (1, 2, 3)))
    assert await log.read(read_open_session_count) == 3
    await commit(
        log,
        write(session=1, session_state=SessionState(id=1, state="processing")),
        write(session=2, session_state=SessionState(id=2, state="closed")),
        write(session=2, session_state=SessionState(id=2, state="closed", title="late")),
    )
    assert await log.read(read_open_session_count) == 2


async def test_all_data_survives_a_restart_and_no_id_is_used_again(disk: LogDisk) -> None:
    log = await disk.open()
    assert [log.next_session(), log.next_session()] == [1, 2]
    state, queued = SessionState(id=2, state="idle", agent="a"), InboxEntry(place=1, kind="message", content="hi")
    written = write(
        session=2,
        session_state=state,
        bodies=[b"{}", b"[]"],
        first_seq=1,
        mutations=[
            Enqueue(queued),
            PutKey(IdempotencyKey(key="k", digest=b"d")),
            AddTurn(1, 2),
            SaveDraft(Draft(turn=1, round=1, text="so far")),
            AddCreateKey("c", b"e"),
        ],
    )
    await commit(log, written)
    assert log.next_session() == 3
    await log.aclose()

    log = await disk.open()
    assert log.next_session() == 4
    assert await log.events(2, 0, 9) == [EventRow(1, 1, b"{}"), EventRow(2, 2, b"[]")]
    assert await log.list_sessions(SessionFilter()) == [(state, 1)]
    assert await log.read(read_inbox, 2) == [queued]
    assert await log.read(read_key, 2, "k") == IdempotencyKey(key="k", digest=b"d")
    assert await log.read(read_turn_span, 2, 1) == TurnSpan(2, None)
    assert await log.read(read_draft, 2) == Draft(turn=1, round=1, text="so far")
    assert await log.read(read_session_created_with, "c") == (2, b"e")
    assert await log.read(read_unfinished_sessions) == [2]
    assert await log.read(read_open_session_count) == 1
    assert await commit(log, write(session=2, bodies=[b"1"], first_seq=3)) == [3]
    await log.aclose()


async def test_a_duplicate_write_fails_and_other_writes_of_the_batch_succeed(log: Log) -> None:
    await commit(log, write(session=1, bodies=[b"1"], first_seq=1, mutations=[AddTurn(1, 1)]))
    await commit(log, write(session=1, mutations=[Enqueue(InboxEntry(place=1, kind="message"))]))
    first, seq, place, turn, last = await submit_all(
        log,
        write(session=2, bodies=[b"2"], first_seq=1),
        write(session=1, bodies=[b"again"], first_seq=1, mutations=[SaveDraft(Draft(turn=1, round=1))]),
        write(session=1, mutations=[Enqueue(InboxEntry(place=1, kind="message"))]),
        write(session=1, mutations=[AddTurn(1, 1)]),
        write(session=1, bodies=[b"3"], first_seq=2),
    )
    assert (first, last) == (2, 3)
    assert all(isinstance(failure, StorageFailed) for failure in (seq, place, turn))
    assert await log.events(1, 0, 9) == [EventRow(1, 1, b"1"), EventRow(2, 3, b"3")]
    assert await log.read(read_draft, 1) is None


async def test_closing_finishes_the_submitted_writes(disk: LogDisk) -> None:
    log = await disk.open()
    offsets: list[int] = []
    for seq in range(1, 1001):
        one = write(session=1, bodies=[b"{}"], first_seq=seq)
        one.committed = offsets.append
        log.submit(one)
    await log.aclose()
    assert offsets == list(range(1, 1001))
    again = await disk.open()
    assert len(await again.events(1, 0, 2000)) == 1000
    await again.aclose()


async def test_a_closed_log_refuses_writes_and_reads(disk: LogDisk) -> None:
    log = await disk.open()
    await log.aclose()
    (outcome,) = await submit_all(log, write(session=1))
    assert isinstance(outcome, StorageFailed)
    with pytest.raises(StorageFailed):
        await log.session_state(1)
    await log.aclose()


async def test_closing_a_log_in_a_cancelled_scope_still_finishes_its_writes(disk: LogDisk) -> None:
    log = await disk.open()
    offsets: list[int] = []
    one = write(session=1, bodies=[b"{}"], first_seq=1)
    one.committed = offsets.append
    log.submit(one)
    with trio.CancelScope() as scope:
        scope.cancel()
        await log.aclose()
    assert offsets == [1]


async def test_many_sessions_write_at_once_and_each_reads_its_own_writes(log: Log) -> None:
    async def write_and_read(session: int) -> None:
        for seq in range(1, 21):
            await commit(log, write(session=session, bodies=[b"%d" % seq], first_seq=seq))
            assert [row.body for row in await log.events(session, seq - 1, 9)] == [b"%d" % seq]

    async with trio.open_nursery() as nursery:
        for session in range(1, 31):
            nursery.start_soon(write_and_read, session)
    offsets = [row.offset for session in range(1, 31) for row in await log.events(session, 0, 100)]
    assert sorted(offsets) == list(range(1, 601))


async def test_after_cancelled_reads_the_log_can_still_be_read(log: Log) -> None:
    await commit(log, write(session=1, bodies=[b"x" * 100] * 500, first_seq=1))
    for _ in range(20):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(log.events, 1, 0, 500)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert len(await log.events(1, 0, 500)) == 500
