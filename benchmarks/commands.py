"""Measures the time and memory that `walrusctl send` costs a shell script.

The time is from spawn to exit, beyond the turn itself.
"""

import subprocess
import sys

from msgspec import Struct

from benchmarks.children import ROOT, DaemonProcess, environ, make_home, walrusd
from benchmarks.setup import Setup
from benchmarks.table import Measurement, ms, p50
from benchmarks.turns import TEXT, create_sessions, run_turn

BAR_S, BAR_MB = 0.1, 25.0


class ProcessRun(Struct, frozen=True):
    seconds: float
    peak_mb: float


def run(setup: Setup) -> list[Measurement]:
    with walrusd(make_home(setup.folder / "commands", setup.url)) as daemon:
        return [_measure(setup, daemon)]


def _measure(setup: Setup, daemon: DaemonProcess) -> Measurement:
    connection = daemon.connect()
    walrusctl = [str(ROOT / ".venv" / "bin" / "walrusctl"), "--home", str(daemon.home), "send"]
    sent: list[ProcessRun] = []
    turns: list[float] = []
    floors: list[ProcessRun] = []
    bare: list[ProcessRun] = []
    first, *sessions = create_sessions(connection, 2 * setup.scale(24) + 1)
    run_command([*walrusctl, str(first), TEXT])  # compiles the bytecode
    for session in sessions:
        if len(sent) < len(turns):
            sent += run_command([*walrusctl, str(session), TEXT])
            floors += run_command([sys.executable, "-c", "pass"])
            bare += run_command([sys.executable, "-I", "-S", "-c", "pass"])
        else:
            turns.append(run_turn(connection, session))
    connection.close()
    beyond = p50([one.seconds for one in sent]) - p50(turns)
    peak, floor = max(one.peak_mb for one in sent), p50([one.seconds for one in floors])
    nothing = p50([one.seconds for one in bare])
    return Measurement(
        what="walrusctl send, beyond its turn",
        measured=f"{ms(beyond)}, peak {peak:.1f} MB",
        floor=f"{ms(floor)} python -c pass ({ms(nothing)} with -S), {max(one.peak_mb for one in floors):.1f} MB",
        ratio=beyond / floor,
        bar="≤ 100 ms, ≤ 25 MB",
        met=beyond <= BAR_S and peak <= BAR_MB,
        values={"beyond_s": beyond, "peak_mb": peak, "floor_s": floor, "floor_without_site_s": nothing},
    )


def run_command(command: list[str], times: int = 1) -> list[ProcessRun]:
    launcher = [sys.executable, "-S", "-I", str(ROOT / "benchmarks" / "spawn.py"), str(times), *command]
    done = subprocess.run(
        launcher, env=environ(), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    found = [line.split() for line in done.stdout.splitlines()]
    if any(status != "0" for _, _, status in found):
        raise RuntimeError(f"{command} failed: {done.stderr}")
    return [ProcessRun(float(seconds), int(kib) / 1024) for seconds, kib, _ in found]
