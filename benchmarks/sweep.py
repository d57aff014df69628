"""Measures the latency of a turn's events while retention deletes 100,000 other events.

Retention also returns the pages of the deleted events.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import quantiles

import trio

from benchmarks import seed
from benchmarks.setup import Setup
from benchmarks.table import Measurement, ms, p50
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import AssistantMessage, Done, ToolResult, UserMessage, encode
from walrusd.agent.agent import Agent
from walrusd.runtime.recording.recorder import Recorder
from walrusd.runtime.runtime import Runtime
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Write
from walrusd.store.expiry import ExpireSession
from walrusd.store.sqlite import SqliteLog

EVENTS = 100_000
EVENTS_PER_SESSION = 5_000
LONG_EVERY = 20
"""One event in this number is an output of 30 KB; these use most of the pages."""
BASELINE_TURNS = 1_000
BAR_S = 0.015
"""Maximum seconds at p99: one step of the sweep, its sync, and the sync of the event itself."""


def run(setup: Setup) -> list[Measurement]:
    return trio.run(_measure, setup)


async def _measure(setup: Setup) -> list[Measurement]:
    store = await SqliteLog.open(str(setup.folder / "space.db"))
    sessions = range(1, setup.scale(EVENTS) // EVENTS_PER_SESSION + 1)
    for session in sessions:
        await _write_and_wait(store, partial(_closed_session_write, session))
    during: list[float] = []
    async with Runtime(seed.FixedReplyModel(), log=store) as runtime:
        runtime.add_agent(Agent(name="walrus", model="say"))
        recorder = (await seed.create_live_session(runtime)).recorder
        alone: list[float] = []
        for _ in range(setup.scale(BASELINE_TURNS)):
            await _record_turn(recorder, alone)
        await _write_and_wait(
            store,
            partial(
                Write, session=DAEMON_SESSION, bodies=[b"{}"], first_seq=1, mutations=[*map(ExpireSession, sessions)]
            ),
        )
        before, began = await store.space_usage(), time.perf_counter()
        async with trio.open_nursery() as nursery:
            swept = trio.Event()

            async def sweep() -> None:
                await store.sweep()
                swept.set()

            nursery.start_soon(sweep)
            while not swept.is_set():
                await _record_turn(recorder, during)
        took, after = time.perf_counter() - began, await store.space_usage()
    await store.aclose()
    freed = before.used_bytes + before.free_bytes - after.used_bytes - after.free_bytes
    measured, floor = _p99(during), _p99(alone)
    return [
        Measurement(
            what=f"a durable event beside a sweep of {len(sessions) * EVENTS_PER_SESSION:,}, p99",
            measured=f"{ms(measured)} (p50 {ms(p50(during))}, slowest {ms(max(during))}; "
            f"{freed / 1e6:.0f} MB returned in {took:.1f} s)",
            floor=f"{ms(floor)} without (p50 {ms(p50(alone))}, slowest {ms(max(alone))})",
            ratio=measured / floor,
            bar=f"≤ {ms(BAR_S)}",
            met=measured <= BAR_S,
            values={"p99_s": measured, "slowest_s": max(during), "floor_p99_s": floor, "took_s": took},
        )
    ]


async def _record_turn(recorder: Recorder, latencies: list[float]) -> None:
    for event in (
        UserMessage(content="What is there to do?"),
        AssistantMessage(round=1, content="A short answer.", model="say", provider="bench"),
        Done(stop_reason="text_response"),
    ):
        began = time.perf_counter()
        await recorder.record(event)
        latencies.append(time.perf_counter() - began)


def _closed_session_write(session: int, committed: Callable[[int], None], failed: Callable[[Exception], None]) -> Write:
    return Write(
        session=session,
        session_state=SessionState(id=session, agent="walrus", state="closed", last_seq=EVENTS_PER_SESSION),
        bodies=[_body(session, seq) for seq in range(1, EVENTS_PER_SESSION + 1)],
        first_seq=1,
        committed=committed,
        failed=failed,
    )


def _body(session: int, seq: int) -> bytes:
    if seq % LONG_EVERY:
        return encode(UserMessage(content=f"message {seq} of {session}, " * 8))
    return encode(ToolResult(call_id="c", name="bash", output=f"{session} {seq} output " * 1500))


async def _write_and_wait(store: SqliteLog, write: Callable[..., Write]) -> None:
    settled = trio.Event()

    def failed(error: Exception) -> None:
        raise error

    store.submit(write(committed=lambda _: settled.set(), failed=failed))
    await settled.wait()


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98]
