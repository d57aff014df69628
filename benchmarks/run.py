"""Measures each performance goal with its floor in one run (`make bench`).

It prints a table and writes a JSON file.
"""

import argparse
import datetime as dt
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks import (
    attach,
    commands,
    events,
    forks,
    growth,
    hops,
    idle,
    machine,
    ping,
    recovery,
    request,
    search,
    start,
    subscribers,
    sweep,
    tokens,
    turns,
)
from benchmarks.children import ROOT, provider
from benchmarks.setup import Setup
from benchmarks.table import Measurement, render_table

BENCHMARKS: dict[str, Callable[[Setup], list[Measurement]]] = {
    "turns": turns.run,
    "messages": growth.measure_messages,
    "sessions": growth.measure_sessions,
    "tokens": tokens.run,
    "hops": hops.run,
    "pings": ping.run,
    "events": events.measure_recording,
    "chain": events.measure_chain,
    "replay": events.measure_replay,
    "attach": attach.run,
    "subscribers": subscribers.run,
    "branches": forks.run,
    "search": search.run,
    "space": sweep.run,
    "start": start.run,
    "recovery": recovery.run,
    "idle": idle.run,
    "memory": growth.measure_memory,
    "request": request.run,
    "commands": commands.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=BENCHMARKS,
        metavar="NAME",
        help=f"run only this part; may be repeated: {', '.join(BENCHMARKS)}",
    )
    parser.add_argument("--quick", action="store_true", help="run a quarter of the repetitions")
    parser.add_argument("--turns", type=int, default=100_000, help="number of turns of the memory part (100000)")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp"), help="folder for the homes, on the disk to measure (/var/tmp)"
    )
    options = parser.parse_args()
    rows: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="walrus-bench-", dir=options.folder) as folder, provider() as url:
        setup = Setup(url=url, folder=Path(folder), quick=options.quick, turns=options.turns)
        machine_info = machine.describe(setup.folder)
        for name in options.only or BENCHMARKS:
            began = time.perf_counter()
            print(f"{name} …", end="", file=sys.stderr, flush=True)
            rows += BENCHMARKS[name](setup)
            print(f" {time.perf_counter() - began:.1f} s, load {machine.load()}", file=sys.stderr)
    machine_info["load afterwards"] = machine.load()
    print("\n".join(f"{name}: {value}" for name, value in machine_info.items()), end="\n\n")
    print(render_table(rows))
    print(f"\nwritten to {_write_results(machine_info, rows).relative_to(ROOT)}")


def _write_results(machine_info: dict[str, str], rows: list[Measurement]) -> Path:
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    now = dt.datetime.now(dt.UTC)
    path = results / f"{now:%Y-%m-%dT%H%M%S}.json"
    outcome = {"at": now.isoformat(), "machine": machine_info, "rows": msgspec.to_builtins(rows)}
    path.write_text(json.dumps(outcome, indent=1, ensure_ascii=False) + "\n")
    return path


if __name__ == "__main__":
    main()
