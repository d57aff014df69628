"""Measures whether turns, starts and memory grow with long conversations, full stores and many turns."""

import time
from contextlib import ExitStack
from pathlib import Path

import trio

from benchmarks import http_baseline, seed
from benchmarks.children import DaemonProcess, make_echo_home, make_home, walrusd
from benchmarks.machine import rss_mb
from benchmarks.setup import Setup
from benchmarks.start import measure_ready_s
from benchmarks.table import Measurement, ms, p50
from benchmarks.turns import create_sessions, measure_turn_rate, run_turn

FEW, MANY = 10, 10_000
NOISE = 1.2
"""Factor by which two medians of the same measurement differ on a busy machine."""
WARM_TURNS = 10_000
"""Number of turns after which the cache of idle sessions is full."""
TURNS_PER_SESSION = 10
"""Number of turns of each session."""
SESSIONS_PER_BATCH = 200
"""Number of sessions in one batch; their turns alternate."""


def measure_messages(setup: Setup) -> list[Measurement]:
    """Compares a turn after 1,000 messages with a first turn, and the same two requests by bare httpx2."""
    home = make_home(setup.folder / "messages", setup.url)
    session = trio.run(seed.create_session_of_turns, home, 500)
    with walrusd(home) as daemon:
        return [trio.run(_long_conversation, setup, daemon, session)]


async def _long_conversation(setup: Setup, daemon: DaemonProcess, long: int) -> Measurement:
    connection = daemon.connect()
    count = setup.scale(100)
    turns: dict[str, list[float]] = {"long": [], "short": []}
    floors: dict[str, list[float]] = {"long": [], "short": []}
    async with http_baseline.open_client() as http:
        run_turn(connection, long)
        for short in create_sessions(connection, count):
            for name, session in (("long", long), ("short", short)):
                turns[name].append(run_turn(connection, session))
                body = await http_baseline.last_request_body(http, setup.url)
                floors[name].append(await http_baseline.time_exchange(http, setup.url, body))
                if name == "long":
                    size = len(body)
    connection.close()
    grown = p50(turns["long"]) - p50(turns["short"])
    floor = p50(floors["long"]) - p50(floors["short"])
    at_most = NOISE * p50(floors["long"]) / p50(floors["short"]) * p50(turns["short"])
    return Measurement(
        what="a turn at 1,000 messages",
        measured=f"{ms(p50(turns['long']))}, {ms(grown)} more than at 1",
        floor=f"{ms(p50(floors['long']))} bare, {ms(floor)} more ({size / 1024:.0f} KiB)",
        ratio=p50(turns["long"]) / p50(floors["long"]),
        bar=f"grows no more than the request, ± {NOISE - 1:.0%}",
        met=p50(turns["long"]) <= at_most,
        values={"long_s": p50(turns["long"]), "short_s": p50(turns["short"]), "grown_s": grown, "floor_grown_s": floor},
    )


def measure_sessions(setup: Setup) -> list[Measurement]:
    """Compares a daemon on a store of ten sessions with one on a store of ten thousand."""
    many = setup.scale(MANY)
    homes = {count: make_home(setup.folder / f"store-{count}", setup.url) for count in (FEW, many)}
    ready: dict[int, list[float]] = {count: [] for count in homes}
    for count, home in homes.items():
        trio.run(seed.create_one_turn_sessions, home, count)
        measure_ready_s(home)
    for _ in range(setup.scale(12)):
        for count, home in homes.items():
            ready[count].append(measure_ready_s(home))
    turn_s, rss = _measure_side_by_side(setup, homes)
    full, few = p50(ready[many]), p50(ready[FEW])
    return [
        _compare(f"spawn to ready, {many:,} sessions in the store", full, few, ms(full), ms(few)),
        _compare(
            f"a turn, p50, {many:,} sessions in the store", turn_s[many], turn_s[FEW], ms(turn_s[many]), ms(turn_s[FEW])
        ),
        _compare(f"RSS, {many:,} sessions in the store", rss[many], rss[FEW], _mb(rss[many]), _mb(rss[FEW])),
    ]


def _measure_side_by_side(setup: Setup, homes: dict[int, Path]) -> tuple[dict[int, float], dict[int, float]]:
    """Returns seconds per turn and MB of RSS of two daemons, whose turns alternate."""
    with ExitStack() as stack:
        daemons = {count: stack.enter_context(walrusd(home)) for count, home in homes.items()}
        connections = {count: daemon.connect() for count, daemon in daemons.items()}
        fresh = {count: create_sessions(connection, setup.scale(300)) for count, connection in connections.items()}
        turns: dict[int, list[float]] = {count: [] for count in homes}
        for pair in zip(*fresh.values(), strict=True):
            for (count, connection), session in zip(connections.items(), pair, strict=True):
                turns[count].append(run_turn(connection, session))
        for connection in connections.values():
            connection.close()
        rss = {count: rss_mb(daemon.pid) for count, daemon in daemons.items()}
    return {count: p50(took) for count, took in turns.items()}, rss


def _compare(what: str, full: float, few: float, full_shown: str, few_shown: str) -> Measurement:
    return Measurement(
        what=what,
        measured=full_shown,
        floor=f"{few_shown} with {FEW}",
        ratio=full / few,
        bar=f"the same ± {NOISE - 1:.0%}",
        met=full <= NOISE * few,
        values={"full": full, "few": few},
    )


def _mb(value: float) -> str:
    return f"{value:.1f} MB"


def measure_memory(setup: Setup) -> list[Measurement]:
    """Measures memory after many turns, ten in each session. Idle sessions must be evicted from memory."""
    count = setup.scale(setup.turns)
    with walrusd(make_echo_home(setup.folder / "memory")) as daemon:
        _run_turns(daemon, WARM_TURNS)
        before = _settled_rss(daemon.pid)
        began = time.perf_counter()
        _run_turns(daemon, count)
        took = time.perf_counter() - began
        after = _settled_rss(daemon.pid)
    return [
        Measurement(
            what=f"RSS after {count:,} more turns",
            measured=f"{after:.1f} MB ({count / took:,.0f} turns/s in {count // TURNS_PER_SESSION:,} sessions)",
            floor=f"{before:.1f} MB after {WARM_TURNS:,}",
            ratio=after / before,
            bar="≤ 1.1",
            met=after <= 1.1 * before,
            values={"after_mb": after, "before_mb": before, "turns": count, "turns_per_s": count / took},
        )
    ]


def _run_turns(daemon: DaemonProcess, turns: int) -> None:
    connection = daemon.connect()
    for _ in range(0, turns, TURNS_PER_SESSION * SESSIONS_PER_BATCH):
        measure_turn_rate(daemon, TURNS_PER_SESSION * create_sessions(connection, SESSIONS_PER_BATCH))
    connection.close()


def _settled_rss(pid: int) -> float:
    time.sleep(0.5)
    return rss_mb(pid)
