"""A thousand turns cut off by a kill: from the next start to the daemon's first answer, and to the last one mended."""

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
"""As many turns as may run at once by default: of the floor's clients, too."""
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
    """A home to be copied for each start."""

    home: Path
    queued_messages: dict[int, int]
    """How many messages wait in each session."""
    last_offset: int
    """The last of its log."""


class RecoveryTimes(Struct, frozen=True):
    """One start: seconds from the spawn on, and what the daemon took of CPU until the last turn was done."""

    ready: float
    mended: float
    done: float
    cpu: float


def run(setup: Setup) -> list[Measurement]:
    home = setup.folder / "cut-off"
    (home / "workspace").mkdir(mode=0o700, parents=True)
    home.chmod(0o700)
    (home / "workspace" / "notes.md").write_text("- buy fish\n- mend the net\n")
    (home / "script.toml").write_text(SCRIPT)
    cut_off = CrashedHome(home, *trio.run(create_crashed_sessions, home, setup.scale(SESSIONS)))
    return [_measure(setup, cut_off, "continue"), _measure(setup, cut_off, "close")]


def _measure(setup: Setup, crashed_home: CrashedHome, on_restart: OnRestart) -> Measurement:
    """After each start the same turns are asked for by clients, of the same sessions, by then at rest."""
    turns = [session for session, waiting in crashed_home.queued_messages.items() for _ in range(1 + waiting)]
    lives: list[RecoveryTimes] = []
    at_rest: list[float] = []
    asked: list[float] = []
    for number in range(setup.scale(ROUNDS)):
        home = setup.folder / f"{on_restart}-{number}"
        shutil.copytree(crashed_home.home, home)
        (home / "walrus.toml").write_text(HOME.format(on_restart=on_restart))
        (home / "walrus.toml").chmod(0o600)
        lives.append(_time_recovery(home, crashed_home, on_restart))
        began = time.perf_counter()
        with walrusd(home) as daemon:
            at_rest.append(time.perf_counter() - began)
            asked.append(len(turns) / measure_turn_rate(daemon, turns, CONCURRENT_TURNS))
        shutil.rmtree(home)
    ready, mended, done = (p50([getattr(life, name) for life in lives]) for name in ("ready", "mended", "done"))
    fate = "which go on" if on_restart == "continue" else "which are ended"
    return Measurement(
        what=f"{len(crashed_home.queued_messages):,} turns cut off by a kill, {fate}: spawn to the last one mended",
        measured=f"{ms(mended)} (ready after {ms(ready)}, all {len(turns):,} turns done after {ms(done)})",
        floor=f"{ms(p50(at_rest))} to ready with all at rest, {ms(p50(asked))} as many turns asked for by clients",
        ratio=mended / p50(at_rest),
        bar=f"≤ {BAR_S:.0f} s",
        met=mended <= BAR_S,
        values={
            "ready_s": ready,
            "mended_s": mended,
            "done_s": done,
            "cpu_s": p50([life.cpu for life in lives]),
            "at_rest_s": p50(at_rest),
            "asked_s": p50(asked),
        },
    )


def _time_recovery(home: Path, crashed_home: CrashedHome, on_restart: OnRestart) -> RecoveryTimes:
    """Start on it, and read the log from where the kill has left it until every turn has its `done`."""
    began = time.perf_counter()
    with walrusd(home) as daemon:
        ready = time.perf_counter() - began
        resumed: Counter[int] = Counter()
        ends: dict[int, list[str]] = {session: [] for session in crashed_home.queued_messages}
        left = sum(1 + waiting for waiting in crashed_home.queued_messages.values())
        unmended, mended = set(crashed_home.queued_messages), 0.0
        line = daemon.connect()
        subscribed = {"since": crashed_home.last_offset, "types": ["turn_resumed", "done"], "deltas": False}
        line.socket.sendall(encode_request("event.subscribe", subscribed))
        while left:
            event = json.loads(line.receive())["params"]["event"]
            if event["type"] == "turn_resumed":
                resumed[event["session"]] += event["reason"] == "crash"
            elif event["type"] == "done":
                ends[event["session"]].append(event["stop_reason"])
                left -= 1
            else:
                continue
            unmended.discard(event["session"])
            mended = mended or (0.0 if unmended else time.perf_counter() - began)
        done, cpu = time.perf_counter() - began, cpu_s(daemon.pid)
        line.close()
    go_on = on_restart == "continue"
    first = "text_response" if go_on else "interrupted"
    for session, waiting in crashed_home.queued_messages.items():
        if resumed[session] != go_on or ends[session] != [first, *["text_response"] * waiting]:
            raise RuntimeError(f"session {session} was resumed {resumed[session]} times and ended as {ends[session]}")
    return RecoveryTimes(ready, mended, done, cpu)
