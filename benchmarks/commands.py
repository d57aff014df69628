"""`walrusctl send` as a shell script pays for it: from spawn to answer, beyond the turn itself."""

import subprocess
import sys

from msgspec import Struct

from benchmarks.children import ROOT, Daemon, environ, make_home, walrusd
from benchmarks.setup import Setup
from benchmarks.table import Row, ms, p50
from benchmarks.turns import TEXT, create_sessions, turn

BAR_S, BAR_MB = 0.1, 25.0


class Spawned(Struct, frozen=True):
    seconds: float
    peak_mb: float


def run(setup: Setup) -> list[Row]:
    with walrusd(make_home(setup.folder / "commands", setup.url)) as daemon:
        return [_measured(setup, daemon)]


def _measured(setup: Setup, daemon: Daemon) -> Row:
    line = daemon.line()
    walrusctl = [str(ROOT / ".venv" / "bin" / "walrusctl"), "--home", str(daemon.home), "send"]
    sent: list[Spawned] = []
    turns: list[float] = []
    floors: list[Spawned] = []
    bare: list[Spawned] = []
    first, *sessions = create_sessions(line, 2 * setup.fewer(24) + 1)
    spawned([*walrusctl, str(first), TEXT])  # compiles the bytecode
    for session in sessions:
        if len(sent) < len(turns):
            sent += spawned([*walrusctl, str(session), TEXT])
            floors += spawned([sys.executable, "-c", "pass"])
            bare += spawned([sys.executable, "-I", "-S", "-c", "pass"])
        else:
            turns.append(turn(line, session))
    line.close()
    beyond = p50([one.seconds for one in sent]) - p50(turns)
    peak, floor = max(one.peak_mb for one in sent), p50([one.seconds for one in floors])
    nothing = p50([one.seconds for one in bare])
    return Row(
        what="walrusctl send, beyond its turn",
        measured=f"{ms(beyond)}, peak {peak:.1f} MB",
        floor=f"{ms(floor)} python -c pass ({ms(nothing)} with -S), {max(one.peak_mb for one in floors):.1f} MB",
        ratio=beyond / floor,
        bar="≤ 100 ms, ≤ 25 MB",
        met=beyond <= BAR_S and peak <= BAR_MB,
        values={"beyond_s": beyond, "peak_mb": peak, "floor_s": floor, "floor_without_site_s": nothing},
    )


def spawned(command: list[str], times: int = 1) -> list[Spawned]:
    launcher = [sys.executable, "-S", "-I", str(ROOT / "benchmarks" / "spawn.py"), str(times), *command]
    done = subprocess.run(
        launcher, env=environ(), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    found = [line.split() for line in done.stdout.splitlines()]
    if any(status != "0" for _, _, status in found):
        raise RuntimeError(f"{command} failed: {done.stderr}")
    return [Spawned(float(seconds), int(kib) / 1024) for seconds, kib, _ in found]
