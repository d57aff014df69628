"""A thousand turns cut off by a kill: from the next start to the daemon's first answer, and to the last one mended."""

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import trio
from msgspec import Struct

from benchmarks.children import walrusd
from benchmarks.cut_off import sessions_cut_off
from benchmarks.machine import cpu_s
from benchmarks.setup import Setup
from benchmarks.table import Row, ms, p50
from benchmarks.turns import turn_rate
from benchmarks.wire import framed
from walrusd.session.mend import OnRestart

SESSIONS = 1000
ROUNDS = 5
BAR_S = 2.0
AT_ONCE = 64
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


class CutOff(Struct, frozen=True):
    """A home to be copied for each start."""

    home: Path
    waiting: dict[int, int]
    """How many messages wait in each session."""
    offset: int
    """The last of its log."""


class Life(Struct, frozen=True):
    """One start: seconds from the spawn on, and what the daemon took of CPU until the last turn was done."""

    ready: float
    mended: float
    done: float
    cpu: float


def run(setup: Setup) -> list[Row]:
    home = setup.folder / "cut-off"
    (home / "workspace").mkdir(mode=0o700, parents=True)
    home.chmod(0o700)
    (home / "workspace" / "notes.md").write_text("- buy fish\n- mend the net\n")
    (home / "script.toml").write_text(SCRIPT)
    cut_off = CutOff(home, *trio.run(sessions_cut_off, home, setup.fewer(SESSIONS)))
    return [_recovered(setup, cut_off, "continue"), _recovered(setup, cut_off, "close")]


def _recovered(setup: Setup, cut_off: CutOff, on_restart: OnRestart) -> Row:
    """After each start the same turns are asked for by clients, of the same sessions, by then at rest."""
    turns = [session for session, waiting in cut_off.waiting.items() for _ in range(1 + waiting)]
    lives: list[Life] = []
    at_rest: list[float] = []
    asked: list[float] = []
    for number in range(setup.fewer(ROUNDS)):
        home = setup.folder / f"{on_restart}-{number}"
        shutil.copytree(cut_off.home, home)
        (home / "walrus.toml").write_text(HOME.format(on_restart=on_restart))
        (home / "walrus.toml").chmod(0o600)
        lives.append(_life(home, cut_off, on_restart))
        began = time.perf_counter()
        with walrusd(home) as daemon:
            at_rest.append(time.perf_counter() - began)
            asked.append(len(turns) / turn_rate(daemon, turns, AT_ONCE))
        shutil.rmtree(home)
    ready, mended, done = (p50([getattr(life, name) for life in lives]) for name in ("ready", "mended", "done"))
    fate = "which go on" if on_restart == "continue" else "which are ended"
    return Row(
        what=f"{len(cut_off.waiting):,} turns cut off by a kill, {fate}: spawn to the last one mended",
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


def _life(home: Path, cut_off: CutOff, on_restart: OnRestart) -> Life:
    """Start on it, and read the log from where the kill has left it until every turn has its `done`."""
    began = time.perf_counter()
    with walrusd(home) as daemon:
        ready = time.perf_counter() - began
        resumed: Counter[int] = Counter()
        ends: dict[int, list[str]] = {session: [] for session in cut_off.waiting}
        left = sum(1 + waiting for waiting in cut_off.waiting.values())
        unmended, mended = set(cut_off.waiting), 0.0
        line = daemon.line()
        subscribed = {"since": cut_off.offset, "types": ["turn_resumed", "done"], "deltas": False}
        line.socket.sendall(framed("event.subscribe", subscribed))
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
    for session, waiting in cut_off.waiting.items():
        if resumed[session] != go_on or ends[session] != [first, *["text_response"] * waiting]:
            raise RuntimeError(f"session {session} was resumed {resumed[session]} times and ended as {ends[session]}")
    return Life(ready, mended, done, cpu)
