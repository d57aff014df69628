"""Measures durable events per second: under concurrent load, with a hash chain, and in a replay.

The load records the events; the replay sends them to a client.
"""

import json
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from benchmarks import seed
from benchmarks.children import child, make_home, read_line, walrusd
from benchmarks.echo_server import EVENT
from benchmarks.machine import cpu_s
from benchmarks.setup import Setup
from benchmarks.table import Measurement, p50, per_s
from benchmarks.turns import TEXT
from benchmarks.wire import HEADER, count_frames, encode_request
from walrus_protocol.events import AssistantMessage, Done, UserMessage, encode
from walrusd.agent.agent import Agent
from walrusd.runtime.runtime import Runtime
from walrusd.store.contract import Write
from walrusd.store.database import Durability
from walrusd.store.sqlite import SqliteLog

WRITERS = 64
"""Number of concurrent sessions: the default of `daemon.max_running_turns`."""
ROUNDS = 5
Load = Callable[[SqliteLog, int], Awaitable[float]]


def measure_recording(setup: Setup) -> list[Measurement]:
    return [
        trio.run(_compare_to_store, setup, durability, writers)
        for writers in (16, WRITERS)
        for durability in ("full", "normal")
    ]


async def _compare_to_store(setup: Setup, durability: Durability, writers: int) -> Measurement:
    """Compares recording by the recorders of several sessions with bare writes into the same store."""
    each = setup.scale(480)

    async def through_recorders(store: SqliteLog) -> float:
        return await _record_rate(store, writers, each)

    async def bare(store: SqliteLog) -> float:
        return await _store_rate(store, writers, each)

    rates: list[float] = []
    floors: list[float] = []
    for number in range(ROUNDS):
        for rate, found in ((bare, floors), (through_recorders, rates)):
            path = setup.folder / f"{rate.__name__}-{durability}-{writers}-{number}.db"
            store = await SqliteLog.open(str(path), durability=durability)
            try:
                found.append(await rate(store))
            finally:
                await store.aclose()
    measured, floor = p50(rates), p50(floors)
    return Measurement(
        what=f"durable events, {writers} sessions, {durability.upper()}",
        measured=per_s(measured),
        floor=f"{per_s(floor)} into the bare store",
        ratio=measured / floor,
        bar="≥ 20,000/s",
        met=measured >= 20_000,
        values={"per_s": measured, "floor_per_s": floor},
    )


def measure_chain(setup: Setup) -> list[Measurement]:
    """Compares the same turns with and without the hash chain, alternately."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    each = setup.scale(480)

    async def rate(number: int, *, chain: bool) -> float:
        path = setup.folder / f"chain-{chain}-{number}.db"
        store = await SqliteLog.open(str(path), chain=chain)
        try:
            return await _record_rate(store, WRITERS, each)
        finally:
            await store.aclose()

    for number in range(2 * ROUNDS):
        for chain in (True, False) if number % 2 else (False, True):
            rates[chain].append(trio.run(partial(rate, number, chain=chain)))
    ratio = p50([on / off for on, off in zip(rates[True], rates[False], strict=True)])
    return [
        Measurement(
            what=f"durable events in a chain, {WRITERS} sessions",
            measured=per_s(p50(rates[True])),
            floor=f"{per_s(p50(rates[False]))} without the chain",
            ratio=ratio,
            bar="≥ 0.9 of that without",
            met=ratio >= 0.9,
            values={"per_s": p50(rates[True]), "floor_per_s": p50(rates[False]), "ratio": ratio},
        )
    ]


async def _record_rate(store: SqliteLog, writers: int, per_writer: int) -> float:
    """Returns events per second of turns of three events.

    Each event is durable, applied and published before the session's next one is recorded.
    """
    async with Runtime(seed.FixedReplyModel(), log=store) as runtime:
        runtime.add_agent(Agent(name="walrus", model="say"))
        lives = [await seed.create_live_session(runtime) for _ in range(writers)]
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for live in lives:
                nursery.start_soon(_record_turns, live.recorder.record, per_writer)
        return writers * per_writer / (time.perf_counter() - began)


async def _record_turns(record: Callable[..., Awaitable[None]], count: int) -> None:
    for _ in range(count // 3):
        await record(UserMessage(content=TEXT))
        await record(AssistantMessage(round=1, content="A short answer.", model="say", provider="bench"))
        await record(Done(stop_reason="text_response"))


async def _store_rate(store: SqliteLog, writers: int, per_writer: int) -> float:
    """Returns rows per second of bare writes of the same size, one at a time in each session."""
    body = encode(UserMessage(content=TEXT, ts=time.time(), session=1, turn=1))

    async def write(session: int) -> None:
        for seq in range(1, per_writer + 1):
            outcome = trio.Event()

            def committed(_: int, outcome: trio.Event = outcome) -> None:
                outcome.set()

            store.submit(Write(session=session, bodies=[body], first_seq=seq, committed=committed, failed=_raise))
            await outcome.wait()

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for session in range(1, writers + 1):
            nursery.start_soon(write, session)
    return writers * per_writer / (time.perf_counter() - began)


def _raise(error: Exception) -> None:
    raise error


def measure_replay(setup: Setup) -> list[Measurement]:
    """Measures session.attach from the beginning by a client that only counts frames."""
    home = make_home(setup.folder / "replay", setup.url)
    count = setup.scale(50_000)
    session = trio.run(seed.create_session_of_events, home, count)
    request = encode_request("session.attach", {"session": session, "since": 0, "follow": False})
    with walrusd(home) as daemon, child(["-m", "benchmarks.echo_server", str(setup.folder / "flood.sock")]) as flood:
        read_line(flood)
        first, _, _ = _time_replay(Path(daemon.socket), request)
        rates, floors, cpu = [], [], []
        for _ in range(ROUNDS):
            before = cpu_s(daemon.pid)
            rate, frames, size = _time_replay(Path(daemon.socket), request)
            cpu.append((cpu_s(daemon.pid) - before) / frames * 1e6)
            rates.append(rate)
            request_size = str(size).encode()
            floors.append(_time_replay(setup.folder / "flood.sock", HEADER.pack(len(request_size)) + request_size)[0])
    measured, floor = p50(rates), p50(floors)
    return [
        Measurement(
            what=f"replay of {frames:,} events to a client",
            measured=f"{per_s(measured)} ({p50(cpu):.1f} µs of daemon CPU; {per_s(first)} when first loaded)",
            floor=f"{per_s(floor)} prebuilt frames of {len(EVENT)} bytes by bare trio",
            ratio=measured / floor,
            bar="≥ 50,000/s",
            met=measured >= 50_000,
            values={"per_s": measured, "first_per_s": first, "floor_per_s": floor, "daemon_us": p50(cpu)},
        )
    ]


def _time_replay(path: Path, request: bytes) -> tuple[float, int, int]:
    """Returns frames per second, the number of frames, and the number of bytes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        began = time.perf_counter()
        frames, size, answer = count_frames(connection, request)
        took = time.perf_counter() - began
    if "result" not in json.loads(answer):
        raise RuntimeError(f"the replay failed: {answer.decode()}")
    return frames / took, frames, size
