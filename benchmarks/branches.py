"""Forks of a long conversation: what one takes, and what its first turn does, which reads all that it inherits."""

import time
from typing import Any

import trio

from benchmarks import seed
from benchmarks.children import make_home, walrusd
from benchmarks.setup import Setup
from benchmarks.table import Row, ms, p50
from benchmarks.turns import turn
from benchmarks.wire import Line

MESSAGES = 10_000
FORKS = 200


def run(setup: Setup) -> list[Row]:
    home = make_home(setup.folder / "branches", setup.url)
    count = setup.fewer(MESSAGES)
    parent = trio.run(seed.session_of_turns, home, count // 2)
    long = trio.run(seed.session_of_events, home, 5 * count // 2)
    with walrusd(home) as daemon:
        line = daemon.line()
        ends = {session: line.call("session.get", {"session": session})["last_seq"] for session in (parent, long)}
        points = {
            "at its end": {"session": parent},
            "in its middle": {"session": parent, "at": ends[parent] // 2},
            "within a turn of 100 rounds": {"session": long, "at": ends[long] - 6},
        }
        forks: dict[str, list[float]] = {name: [] for name in points}
        floors: list[float] = []
        for _ in range(setup.fewer(FORKS)):
            floors.append(_timed(line, "session.create", {"agent": "walrus"}))
            for name, params in points.items():
                forks[name].append(_timed(line, "session.fork", params))
        first = [_first_turn(line, {"session": parent}) for _ in range(5)]
        again = [turn(line, parent) for _ in range(6)]
        line.close()
    rows = [
        Row(
            what=f"fork of {count:,} messages {name}",
            measured=f"{ms(p50(took))} (at most {ms(max(took))})",
            floor=f"{ms(p50(floors))} session.create",
            ratio=p50(took) / p50(floors),
            bar="≤ 5 ms",
            met=p50(took) <= 0.005,
            values={"fork_s": p50(took), "most_s": max(took), "create_s": p50(floors)},
        )
        for name, took in forks.items()
    ]
    informs = Row(
        what=f"the first turn of a fork of {count:,} messages",
        measured=ms(p50(first)),
        floor=f"{ms(p50(again[1:]))} a turn in the parent ({ms(again[0])} when first loaded)",
        values={"first_s": p50(first), "parent_s": p50(again[1:]), "parent_first_s": again[0]},
    )
    return [*rows, informs]


def _timed(line: Line, method: str, params: dict[str, Any]) -> float:
    began = time.perf_counter()
    line.call(method, params)
    return time.perf_counter() - began


def _first_turn(line: Line, params: dict[str, Any]) -> float:
    return turn(line, line.call("session.fork", params)["session"])
