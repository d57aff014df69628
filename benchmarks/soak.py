"""`make soak`: a walrusd under everyday load for as long as one asks, and what it held and how fast it was meanwhile.

Each second a line of CSV; at the end a picture and a verdict, and an exit status by it.
"""

import argparse
import csv
import datetime as dt
import sys
import tempfile
from pathlib import Path
from statistics import quantiles
from typing import TextIO

import trio
from msgspec import structs

from benchmarks import soak_picture
from benchmarks.children import ROOT, Daemon, make_echo_home, walrusd
from benchmarks.machine import rss_mb
from benchmarks.soak_load import Load
from benchmarks.soak_samples import LEAST_S, WARM_S, Sample, judged
from walrus_protocol.aclient import connect
from walrus_protocol.housekeeping import MetricsParams


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="how long (600)")
    parser.add_argument("--sessions", type=int, default=500, help="open at any time (500)")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="for the home, on a disk (/var/tmp)")
    options = parser.parse_args()
    if options.seconds < LEAST_S:
        parser.error(f"{options.seconds} s are too few: the first {WARM_S} only warm it up, so give it {LEAST_S}")
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    at = results / f"soak-{dt.datetime.now(dt.UTC):%Y-%m-%dT%H%M%S}.csv"
    with (
        open(at, "w", newline="", buffering=1) as file,
        tempfile.TemporaryDirectory(prefix="walrus-soak-", dir=options.folder) as folder,
        walrusd(make_echo_home(Path(folder) / "home")) as daemon,
    ):
        samples = trio.run(soak, daemon, options.seconds, options.sessions, file)
    verdict = judged(samples)
    picture = at.with_suffix(".png")
    soak_picture.draw(samples, verdict, picture)
    print(f"\n{verdict.text}\nwritten to {picture.relative_to(ROOT)} and {at.relative_to(ROOT)}")
    sys.exit(not verdict.good)


async def soak(daemon: Daemon, seconds: int, sessions: int, file: TextIO) -> list[Sample]:
    """Load the daemon, and look at it once a second."""
    samples: list[Sample] = []
    lines = csv.writer(file)
    lines.writerow(Sample.__struct_fields__)
    async with connect(daemon.socket) as client, trio.open_nursery() as nursery:
        load = Load(daemon.socket, sessions)
        nursery.start_soon(load.run)
        began = trio.current_time()
        for second in range(1, seconds + 1):
            await trio.sleep_until(began + second)
            found = (await client.metrics(MetricsParams())).metrics
            samples.append(_sample(trio.current_time() - began, rss_mb(daemon.pid), found, load))
            lines.writerow(structs.astuple(samples[-1]))
            _show(samples[-1], seconds)
        nursery.cancel_scope.cancel()
    return samples


def _sample(second: float, rss: float, found: dict[str, float], load: Load) -> Sample:
    took = sorted(load.take_latencies()) or [0.0]
    cuts = quantiles(took, n=100) if len(took) > 1 else 99 * took
    return Sample(
        second=round(second, 1),
        turns=int(sum(value for name, value in found.items() if name.startswith("walrusd_turns_total"))),
        rss_mb=round(rss, 2),
        p50_ms=round(cuts[49] * 1000, 3),
        p99_ms=round(cuts[98] * 1000, 3),
        wal_mb=round(found["walrusd_wal_bytes"] / 2**20, 3),
        db_mb=round(found["walrusd_db_bytes"] / 2**20, 3),
        fds=int(found["walrusd_open_fds"]),
        tasks=int(found["walrusd_tasks"]),
        threads=int(found["walrusd_threads"]),
        sessions_live=int(found["walrusd_sessions_live"]),
        sessions_open=int(found["walrusd_sessions_open"]),
    )


def _show(now: Sample, seconds: int) -> None:
    print(
        f"\r{now.second:6.0f} / {seconds} s  {now.turns:9,} turns  {now.rss_mb:6.1f} MB  p50 {now.p50_ms:6.2f} ms  "
        f"p99 {now.p99_ms:6.2f} ms  WAL {now.wal_mb:5.1f} MB  {now.fds:3} files  {now.sessions_live:4} in memory",
        end="",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    main()
