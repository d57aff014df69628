"""Measures `session.fork` of short and very long conversations, and the first turn of a fork."""

import time
from typing import Any

import trio

from benchmarks import seed
from benchmarks.children import make_home, walrusd
from benchmarks.setup import Setup
from benchmarks.table import Measurement, ms, p50
from benchmarks.turns import run_turn
from benchmarks.wire import RawConnection

LENGTHS = (10, 1_000, 10_000, 100_000)
"""Numbers of messages of the parent sessions."""
FIRST_TURN = 10_000
"""Number of messages of the parent whose fork gets a first turn."""
ROUNDS_OF_CALLS = 10
"""Number of long turns of tool calls, of 100 rounds each, in the session that is forked within a turn."""
FORKS = 200
BAR_S = 0.005


def run(setup: Setup) -> list[Measurement]:
    home = make_home(setup.folder / "branches", setup.url)
    parents = {count: trio.run(seed.create_session_of_messages, home, count) for count in LENGTHS}
    long = trio.run(seed.create_session_of_events, home, ROUNDS_OF_CALLS * seed.LONG_TURN)
    with walrusd(home) as daemon:
        connection = daemon.connect()
        points: dict[str, dict[str, Any]] = {}
        for count, parent in parents.items():
            points[f"of {count:,} messages at its end"] = {"session": parent}
            middle = connection.call("session.get", {"session": parent})["last_seq"] // 2
            points[f"of {count:,} messages in its middle"] = {"session": parent, "at": middle}
        end = connection.call("session.get", {"session": long})["last_seq"]
        points["within a turn of 100 rounds of calls"] = {"session": long, "at": end - 6}
        forks: dict[str, list[float]] = {name: [] for name in points}
        floors: list[float] = []
        for _ in range(setup.scale(FORKS)):
            floors.append(_time_call(connection, "session.create", {"agent": "walrus"}))
            for name, params in points.items():
                forks[name].append(_time_call(connection, "session.fork", params))
        first = [_time_first_turn(connection, {"session": parents[FIRST_TURN]}) for _ in range(5)]
        again = [run_turn(connection, parents[FIRST_TURN]) for _ in range(6)]
        connection.close()
    rows = [
        Measurement(
            what=f"fork {name}",
            measured=f"{ms(p50(took))} (at most {ms(max(took))})",
            floor=f"{ms(p50(floors))} (at most {ms(max(floors))}) session.create",
            ratio=p50(took) / p50(floors),
            bar=f"≤ {BAR_S * 1000:.0f} ms",
            met=p50(took) <= BAR_S,
            values={"fork_s": p50(took), "most_s": max(took), "create_s": p50(floors), "most_create_s": max(floors)},
        )
        for name, took in forks.items()
    ]
    first_turn = Measurement(
        what=f"the first turn of a fork of {FIRST_TURN:,} messages",
        measured=ms(p50(first)),
        floor=f"{ms(p50(again[1:]))} a turn in the parent ({ms(again[0])} when first loaded)",
        values={"first_s": p50(first), "parent_s": p50(again[1:]), "parent_first_s": again[0]},
    )
    return [*rows, first_turn]


def _time_call(connection: RawConnection, method: str, params: dict[str, Any]) -> float:
    began = time.perf_counter()
    connection.call(method, params)
    return time.perf_counter() - began


def _time_first_turn(connection: RawConnection, params: dict[str, Any]) -> float:
    return run_turn(connection, connection.call("session.fork", params)["session"])
