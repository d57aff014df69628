"""A dry run reports exactly what a run then deletes, if no session is in use meanwhile."""

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clock import FakeWallClock
from tests.fakes.model import FakeModel
from tests.fakes.stores import commit, write
from walrus_config.schema import StorageSettings
from walrus_protocol.events import UserMessage, encode
from walrusd.retention.clock_jump import DAY_S
from walrusd.retention.collector import RetentionCollector
from walrusd.retention.dry_run import DeletionCandidates, DeletionStats, simulate_retention
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log, StoredOutput
from walrusd.store.memory import MemoryLog
from walrusd.store.retention_contract import ClosedSession, OutputRef

NOON = 1_793_620_800.0
MB = 1024 * 1024


class PastSession(NamedTuple):
    """A session: the days since its close (None if open), the size of its message, and its outputs."""

    closed_days_ago: int | None
    message_bytes: int
    output_refs: frozenset[str]


past_sessions = st.builds(
    PastSession,
    st.none() | st.integers(1, 9),
    st.integers(1, 400_000),
    st.frozensets(st.sampled_from("abcde"), max_size=3),
)


@given(st.lists(past_sessions, max_size=6), st.none() | st.integers(1, 9), st.none() | st.integers(MB, 4 * MB))
@settings(max_examples=60, deadline=None)  # no deadline: it opens a runtime
async def test_a_dry_run_lists_what_gc_then_deletes(
    past: list[PastSession], days: int | None, max_bytes: int | None
) -> None:
    log, clock = MemoryLog(), FakeWallClock(NOON)
    for number, one in enumerate(past, 1):
        await write_past_session(log, number, one)
    storage = StorageSettings(retain_closed_days=None if days is None else days - 0.5, max_db_bytes=max_bytes)
    async with Runtime(FakeModel(), log=log, clock=clock.now) as runtime:
        daemon_recorder = await DaemonRecorder.open(log)
        collector = RetentionCollector(
            log,
            runtime.session_cache,
            daemon_recorder,
            storage_settings=lambda: storage,
            clock=clock.now,
            on_event=lambda _: None,
        )
        reported = await collector.collect(dry_run=True)
        deleted = await collector.collect(dry_run=False)
    assert (reported.sessions, reported.outputs, reported.events) == (deleted.sessions, deleted.outputs, deleted.events)
    assert reported.bytes >= deleted.bytes, "the daemon event of the deletion itself takes some bytes"


async def write_past_session(log: Log, session: int, past: PastSession) -> None:
    closed = past.closed_days_ago is not None
    row = SessionState(
        id=session,
        agent="walrus",
        state="closed" if closed else "idle",
        updated_at=NOON - (past.closed_days_ago or 0) * DAY_S,
        last_seq=1,
    )
    body = encode(UserMessage(content="x" * past.message_bytes, session=session, ts=row.updated_at))
    await commit(log, write(session=session, session_state=row, bodies=[body], first_seq=1))
    for ref in sorted(past.output_refs):
        await commit(log, write(session=session, output=StoredOutput(ref=ref, body=ref.encode() * 300_000)))


def test_a_forked_session_is_deleted_by_age_and_not_to_free_space() -> None:
    forked = ClosedSession(session=1, closed_at=1.0, turns=1, events=0, bytes=0)
    unforked = ClosedSession(session=2, closed_at=2.0, turns=1, events=5, bytes=100)
    shared = [OutputRef(session=1, ref="a", bytes=10), OutputRef(session=3, ref="a", bytes=0)]
    candidates = DeletionCandidates(closed_sessions=[forked, unforked], closed_only_outputs=[], outputs=shared)
    assert simulate_retention(candidates, closed_before=None, excess_bytes=50) == DeletionStats(
        sessions=1, outputs=0, events=5, bytes=100
    )
    assert simulate_retention(candidates, closed_before=1.5, excess_bytes=0) == DeletionStats(
        sessions=1, outputs=0, events=0, bytes=0
    )
    assert simulate_retention(candidates, closed_before=None, excess_bytes=101) == DeletionStats(
        sessions=1, outputs=1, events=5, bytes=110
    )
