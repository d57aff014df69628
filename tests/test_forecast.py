"""What a dry run promises is what then happens, where nobody uses anything meanwhile."""

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.clock import FakeWallClock
from tests.fakes.model import FakeModel
from tests.fakes.stores import commit, write
from walrus_config.schema import Storage
from walrus_protocol.events import UserMessage, encode
from walrusd.forecast import Found, Gone, forecast
from walrusd.leaps import DAY_S
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.runtime import Runtime
from walrusd.session.outline import Outline
from walrusd.space import Space
from walrusd.store.keeping import Claim, Closed
from walrusd.store.log import Log, Output
from walrusd.store.memory import MemoryLog

NOON = 1_793_620_800.0
MB = 1024 * 1024


class Past(NamedTuple):
    """Of one session: when it was closed, in days ago, or never; the size of its message, and its outputs."""

    closed: int | None
    size: int
    refs: frozenset[str]


pasts = st.builds(
    Past, st.none() | st.integers(1, 9), st.integers(1, 400_000), st.frozensets(st.sampled_from("abcde"), max_size=3)
)


@given(st.lists(pasts, max_size=6), st.none() | st.integers(1, 9), st.none() | st.integers(MB, 4 * MB))
@settings(max_examples=60, deadline=None)  # no deadline: a runtime is opened in it
async def test_a_dry_run_promises_what_then_happens(past: list[Past], days: int | None, most: int | None) -> None:
    log, clock = MemoryLog(), FakeWallClock(NOON)
    for number, one in enumerate(past, 1):
        await lived(log, number, one)
    storage = Storage(retain_closed_days=None if days is None else days - 0.5, max_db_bytes=most)
    async with Runtime(FakeModel(), log=log, clock=clock.now) as runtime:
        facts = await DaemonFacts.open(log)
        space = Space(
            log, runtime.sessions_in_memory, facts, storage=lambda: storage, clock=clock.now, see=lambda _: None
        )
        promised = await space.gc(dry_run=True)
        done = await space.gc(dry_run=False)
    assert (promised.sessions, promised.outputs, promised.events) == (done.sessions, done.outputs, done.events)
    assert promised.bytes >= done.bytes, "less by the fact that tells of it, which takes room itself"


async def lived(log: Log, session: int, past: Past) -> None:
    closed = past.closed is not None
    row = Outline(
        id=session,
        agent="walrus",
        state="closed" if closed else "idle",
        updated_at=NOON - (past.closed or 0) * DAY_S,
        last_seq=1,
    )
    body = encode(UserMessage(content="x" * past.size, session=session, ts=row.updated_at))
    await commit(log, write(session=session, outline=row, bodies=[body], first_seq=1))
    for ref in sorted(past.refs):
        await commit(log, write(session=session, output=Output(ref=ref, body=ref.encode() * 300_000)))


def test_a_session_whose_events_a_fork_reads_goes_when_it_is_old_and_not_for_room() -> None:
    read = Closed(session=1, closed_at=1.0, turns=1, events=0, bytes=0)
    own = Closed(session=2, closed_at=2.0, turns=1, events=5, bytes=100)
    shared = [Claim(session=1, ref="a", bytes=10), Claim(session=3, ref="a", bytes=0)]
    found = Found(closed=[read, own], of_closed=[], outputs=shared)
    assert forecast(found, until=None, excess=50) == Gone(sessions=1, outputs=0, events=5, bytes=100)
    assert forecast(found, until=1.5, excess=0) == Gone(sessions=1, outputs=0, events=0, bytes=0)
    assert forecast(found, until=None, excess=101) == Gone(sessions=1, outputs=1, events=5, bytes=110)
