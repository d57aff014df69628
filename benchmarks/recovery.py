"""Measures the start after a kill that interrupted a thousand turns.

It reports the seconds until ready, recovered and done.
"""

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import trio
from msgspec import Struct

from benchmarks.children import walrusd
from benchmarks.crashed_sessions import create_crashed_sessions
from benchmarks.machine import cpu_s
from benchmarks.setup import Setup
from benchmarks.table import Measurement, ms, p50
from benchmarks.turns import measure_turn_rate
from benchmarks.wire import encode_request
from walrusd.session.recovery import OnRestart

SESSIONS = 1000
ROUNDS = 5
BAR_S = 2.0
CONCURRENT_TURNS = 64
"""Number of concurrent clients of the floor: the default of `daemon.max_running_turns`."""
HOME = """
[daemon]
shutdown_grace_s = 0.1
[defaults]
model = "say"
[sessions]
on_restart = "{on_restart}"
[permissions]
allow = ["read"]
[providers.bench]
kind = "scripted"
path = "script.toml"
models = ["say"]
"""
SCRIPT = 3 * '[[reply]]\nwhen = ""\ntext = "A short answer, as a model gives it when it is asked little."\n'


class CrashedHome(Struct, frozen=True):
    """A home with interrupted turns; it is copied for each start."""

    home: Path
    queued_messages: dict[int, int]
    """Number of queued messages by session."""
    last_offset: int
    """The last offset of its log."""


class RecoveryTimes(Struct, frozen=True):
    """Times of one start: seconds since the spawn, and CPU seconds until the last turn was done."""

    ready: float
    recovered: float
    done: float
    cpu: float


def run(setup: Setup) -> list[Measurement]:
    home = setup.folder / "crashed"
    (home / "workspace").mkdir(mode=0o700, parents=True)
    home.chmod(0o700)
    (home / "workspace" / "notes.md").write_text("- buy fish\n- repair the net\n")
    (home / "script.toml").write_text(SCRIPT)
    crashed = CrashedHome(home, *trio.run(create_crashed_sessions, home, setup.scale(SESSIONS)))
    return [_measure(setup, crashed, "continue"), _measure(setup, crashed, "close")]


def _measure(setup: Setup, crashed_home: CrashedHome, on_restart: OnRestart) -> Measurement:
    """Measures several starts; after each, clients send as many turns to the same sessions as a floor."""
    turns = [session for session, waiting in crashed_home.queued_messages.items() for _ in range(1 + waiting)]
    starts: list[RecoveryTimes] = []
    idle_start: list[float] = []
    client_s: list[float] = []
    for number in range(setup.scale(ROUNDS)):
        home = setup.folder / f"{on_restart}-{number}"
        shutil.copytree(crashed_home.home, home)
        (home / "walrus.toml").write_text(HOME.format(on_restart=on_restart))
        (home / "walrus.toml").chmod(0o600)
        starts.append(_time_recovery(home, crashed_home, on_restart))
        began = time.perf_counter()
        with walrusd(home) as daemon:
            idle_start.append(time.perf_counter() - began)
            client_s.append(len(turns) / measure_turn_rate(daemon, turns, CONCURRENT_TURNS))
        shutil.rmtree(home)
    ready, recovered, done = (p50([getattr(one, name) for one in starts]) for name in ("ready", "recovered", "done"))
    action = "which continue" if on_restart == "continue" else "which are closed"
    return Measurement(
        what=f"{len(crashed_home.queued_messages):,} turns interrupted by a kill, {action}: spawn to last recovered",
        measured=f"{ms(recovered)} (ready after {ms(ready)}, all {len(turns):,} turns done after {ms(done)})",
        floor=f"{ms(p50(idle_start))} to ready with all sessions idle, {ms(p50(client_s))} as many turns by clients",
        ratio=recovered / p50(idle_start),
        bar=f"≤ {BAR_S:.0f} s",
        met=recovered <= BAR_S,
        values={
            "ready_s": ready,
            "recovered_s": recovered,
            "done_s": done,
            "cpu_s": p50([one.cpu for one in starts]),
            "idle_start_s": p50(idle_start),
            "clients_s": p50(client_s),
        },
    )


def _time_recovery(home: Path, crashed_home: CrashedHome, on_restart: OnRestart) -> RecoveryTimes:
    """Starts walrusd on the home, and reads its new events until every turn has its `done`."""
    began = time.perf_counter()
    with walrusd(home) as daemon:
        ready = time.perf_counter() - began
        resumed: Counter[int] = Counter()
        ends: dict[int, list[str]] = {session: [] for session in crashed_home.queued_messages}
        remaining = sum(1 + waiting for waiting in crashed_home.queued_messages.values())
        unrecovered, recovered = set(crashed_home.queued_messages), 0.0
        connection = daemon.connect()
        subscribed = {"since": crashed_home.last_offset, "types": ["turn_resumed", "done"], "deltas": False}
        connection.socket.sendall(encode_request("event.subscribe", subscribed))
        while remaining:
            event = json.loads(connection.receive())["params"]["event"]
            if event["type"] == "turn_resumed":
                resumed[event["session"]] += event["reason"] == "crash"
            elif event["type"] == "done":
                ends[event["session"]].append(event["stop_reason"])
                remaining -= 1
            else:
                continue
            unrecovered.discard(event["session"])
            recovered = recovered or (0.0 if unrecovered else time.perf_counter() - began)
        done, cpu = time.perf_counter() - began, cpu_s(daemon.pid)
        connection.close()
    continues = on_restart == "continue"
    first = "text_response" if continues else "interrupted"
    for session, waiting in crashed_home.queued_messages.items():
        if resumed[session] != continues or ends[session] != [first, *["text_response"] * waiting]:
            raise RuntimeError(f"session {session} was resumed {resumed[session]} times and ended as {ends[session]}")
    return RecoveryTimes(ready, recovered, done, cpu)
