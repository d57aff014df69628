"""Runs walrusd under everyday load and records memory, latency and resources (`make soak`).

Each second adds a line of CSV; at the end there are a plot and a verdict, which sets the exit status.
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

from benchmarks import soak_plot
from benchmarks.children import ROOT, DaemonProcess, make_echo_home, walrusd
from benchmarks.machine import rss_mb
from benchmarks.soak_load import SoakLoad
from benchmarks.soak_samples import MIN_DURATION_S, MIN_WARMUP_S, SoakSample, judge
from walrus_protocol.async_client import connect
from walrus_protocol.methods.daemon import MetricsParams


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="duration of the run (600)")
    parser.add_argument("--sessions", type=int, default=500, help="number of open sessions (500)")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp"), help="folder for the home, on a real disk (/var/tmp)"
    )
    options = parser.parse_args()
    if options.seconds < MIN_DURATION_S:
        parser.error(
            f"{options.seconds} s are too few: the first {MIN_WARMUP_S} s are warm-up; use at least {MIN_DURATION_S}"
        )
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    csv_path = results / f"soak-{dt.datetime.now(dt.UTC):%Y-%m-%dT%H%M%S}.csv"
    with (
        open(csv_path, "w", newline="", buffering=1) as file,
        tempfile.TemporaryDirectory(prefix="walrus-soak-", dir=options.folder) as folder,
        walrusd(make_echo_home(Path(folder) / "home")) as daemon,
    ):
        samples = trio.run(run_soak, daemon, options.seconds, options.sessions, file)
    verdict = judge(samples)
    plot_path = csv_path.with_suffix(".png")
    soak_plot.draw(samples, verdict, plot_path)
    print(f"\n{verdict.text}\nwritten to {plot_path.relative_to(ROOT)} and {csv_path.relative_to(ROOT)}")
    sys.exit(not verdict.good)


async def run_soak(daemon: DaemonProcess, seconds: int, sessions: int, file: TextIO) -> list[SoakSample]:
    """Runs the load on the daemon and takes a sample each second; returns the samples."""
    samples: list[SoakSample] = []
    writer = csv.writer(file)
    writer.writerow(SoakSample.__struct_fields__)
    async with connect(daemon.socket) as client, trio.open_nursery() as nursery:
        load = SoakLoad(daemon.socket, sessions)
        nursery.start_soon(load.run)
        began = trio.current_time()
        for second in range(1, seconds + 1):
            await trio.sleep_until(began + second)
            metrics = (await client.metrics(MetricsParams())).metrics
            samples.append(_take_sample(trio.current_time() - began, rss_mb(daemon.pid), metrics, load))
            writer.writerow(structs.astuple(samples[-1]))
            _print_progress(samples[-1], seconds)
        nursery.cancel_scope.cancel()
    return samples


def _take_sample(second: float, rss: float, metrics: dict[str, float], load: SoakLoad) -> SoakSample:
    took = sorted(load.take_latencies()) or [0.0]
    cuts = quantiles(took, n=100) if len(took) > 1 else 99 * took
    return SoakSample(
        second=round(second, 1),
        turns=int(sum(value for name, value in metrics.items() if name.startswith("walrusd_turns_total"))),
        rss_mb=round(rss, 2),
        p50_ms=round(cuts[49] * 1000, 3),
        p99_ms=round(cuts[98] * 1000, 3),
        wal_mb=round(metrics["walrusd_wal_bytes"] / 2**20, 3),
        db_mb=round(metrics["walrusd_db_bytes"] / 2**20, 3),
        fds=int(metrics["walrusd_open_fds"]),
        tasks=int(metrics["walrusd_tasks"]),
        threads=int(metrics["walrusd_threads"]),
        sessions_live=int(metrics["walrusd_sessions_live"]),
        sessions_open=int(metrics["walrusd_sessions_open"]),
    )


def _print_progress(sample: SoakSample, seconds: int) -> None:
    print(
        f"\r{sample.second:6.0f} / {seconds} s  {sample.turns:9,} turns  {sample.rss_mb:6.1f} MB  "
        f"p50 {sample.p50_ms:6.2f} ms  p99 {sample.p99_ms:6.2f} ms  WAL {sample.wal_mb:5.1f} MB  "
        f"{sample.fds:3} files  {sample.sessions_live:4} in memory",
        end="",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    main()
