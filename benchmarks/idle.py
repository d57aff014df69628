"""Measures CPU and wake-ups of an idle daemon after some work, against a program that only sleeps."""

import time

from benchmarks.children import child, make_home, read_line, walrusd
from benchmarks.machine import cpu_ns, wake_ups
from benchmarks.setup import Setup
from benchmarks.table import Measurement
from benchmarks.turns import create_sessions, run_turn

SETTLE_S = 12.0
"""Seconds to wait before measuring: reader threads end after ten seconds without a query."""
MEASURE_S = 10.0
BAR = 0.001
SLEEPER = "import trio\nprint('ready', flush=True)\ntrio.run(trio.sleep_forever)"


def run(setup: Setup) -> list[Measurement]:
    with walrusd(make_home(setup.folder / "idle", setup.url)) as daemon, child(["-c", SLEEPER]) as sleeper:
        read_line(sleeper)
        connection = daemon.connect()
        for session in create_sessions(connection, 20):
            run_turn(connection, session)
        connection.call("daemon.status", {})
        time.sleep(SETTLE_S)
        before = [(cpu_ns(pid), wake_ups(pid)) for pid in (daemon.pid, sleeper.pid)]
        time.sleep(MEASURE_S)
        after = [(cpu_ns(pid), wake_ups(pid)) for pid in (daemon.pid, sleeper.pid)]
        connection.close()
    (share, woken), (floor, floor_woken) = (
        ((cpu - cpu_before) / 1e9 / MEASURE_S, switches - switches_before)
        for (cpu, switches), (cpu_before, switches_before) in zip(after, before, strict=True)
    )
    return [
        Measurement(
            what=f"idle CPU over {MEASURE_S:.0f} s, one client connected",
            measured=f"{share:.4%}, {woken} wake-ups",
            floor=f"{floor:.4%}, {floor_woken} of a trio that only sleeps",
            bar="≤ 0.1 %",
            met=share <= BAR,
            values={"cpu_share": share, "wake_ups": woken, "floor_cpu_share": floor},
        )
    ]
