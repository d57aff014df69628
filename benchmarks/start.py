"""Measures a daemon from spawn to ready and to a model's first answer, and its idle memory."""

import subprocess
import sys
import time
from pathlib import Path

import trio

from benchmarks import seed
from benchmarks.children import ROOT, child, environ, make_home, wait_ready, walrusd
from benchmarks.machine import rss_mb
from benchmarks.setup import Setup
from benchmarks.table import Measurement, ms, p50
from benchmarks.turns import create_sessions, run_turn
from benchmarks.wire import RawConnection

SESSIONS = 1000
LIBRARIES = "import trio, msgspec, structlog, apsw, click, jsonschema_rs, yaml, tomllib"


def run(setup: Setup) -> list[Measurement]:
    home = make_home(setup.folder / "start", setup.url)
    trio.run(seed.create_one_turn_sessions, home, SESSIONS)
    with walrusd(home) as daemon:  # compiles the bytecode
        time.sleep(1)
        idle = rss_mb(daemon.pid)
        connection = daemon.connect()
        run_turn(connection, create_sessions(connection, 1)[0])
        connection.close()
        after_turn = rss_mb(daemon.pid)
    times = setup.scale(12)
    ready, answered, python, libraries = [], [], [], []
    for _ in range(times):
        python.append(_time_python("pass"))
        libraries.append(_time_python(LIBRARIES))
        ready.append(measure_ready_s(home))
        answered.append(_measure_first_turn_s(home))
    floor = f"{ms(p50(libraries))} importing its libraries, {ms(p50(python))} python -c pass"
    return [
        Measurement(
            what=f"spawn to ready (answers a ping), {SESSIONS:,} sessions in the store",
            measured=ms(p50(ready)),
            floor=floor,
            ratio=p50(ready) / p50(libraries),
            bar="≤ 600 ms",
            met=p50(ready) <= 0.6,
            values={"ready_s": p50(ready), "libraries_s": p50(libraries), "python_s": p50(python)},
        ),
        Measurement(
            what="spawn to a model's first answer",
            measured=ms(p50(answered)),
            floor=floor,
            ratio=p50(answered) / p50(libraries),
            bar="≤ 800 ms",
            met=p50(answered) <= 0.8,
            values={"answered_s": p50(answered)},
        ),
        Measurement(
            what="idle RSS",
            measured=f"{idle:.1f} MB ({after_turn:.1f} MB after the first turn)",
            floor=f"{_measure_rss('pass'):.1f} MB python, {_measure_rss(LIBRARIES):.1f} MB with its libraries",
            bar="≤ 55 MB",
            met=idle <= 55,
            values={"idle_mb": idle, "after_a_turn_mb": after_turn},
        ),
    ]


def measure_ready_s(home: Path) -> float:
    """Returns the seconds from the spawn of a daemon until it answers a ping."""
    began = time.perf_counter()
    with child(["-m", "walrusd", "--home", str(home)], stderr_path=home.parent / "start.log") as process:
        wait_ready(str(home / "walrus.sock"), process)
        return time.perf_counter() - began


def _measure_first_turn_s(home: Path) -> float:
    """Returns the seconds from the spawn of a daemon to a model's answer in a new session."""
    began = time.perf_counter()
    path = str(home / "walrus.sock")
    with child(["-m", "walrusd", "--home", str(home)], stderr_path=home.parent / "start.log") as process:
        wait_ready(path, process)
        connection = RawConnection(path)
        run_turn(connection, create_sessions(connection, 1)[0])
        took = time.perf_counter() - began
        connection.close()
        return took


def _time_python(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ(), check=True)
    return time.perf_counter() - began


def _measure_rss(code: str) -> float:
    with child(["-c", f"{code}\nprint(flush=True)\ninput()"]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return rss_mb(process.pid)
