"""Tests of heartbeats in a real walrusd: scheduled and by command, over a crash, a stop and a reload."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.home import ECHO, MAX_WAIT_S, ROOT, WALRUSCTL, Home

HEARTBEAT = """
[agents.clerk.heartbeat]
interval = {interval}
prompt = "Look around."
"""
FIVE_SECONDS_IN_MINUTES = 5.004 / 60
TOML_WITH_HANGING_SCRIPT = """
[daemon]
shutdown_grace_s = 0.1
[providers.script]
kind = "scripted"
path = "script.toml"
"""


def schedule_json(home: Home, *words: str) -> Any:
    done = home.walrusctl("schedule", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_heartbeats_run_on_schedule_and_keep_their_slots_over_a_crash(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO + HEARTBEAT.format(interval=FIVE_SECONDS_IN_MINUTES))
    home.write("agents/clerk.todo", "- fix the roof\n")
    with home.walrusd() as daemon:
        daemon.wait_for(lambda daemon: bool(daemon.lines_of("tick")))
        [line] = daemon.lines_of("tick")
        assert (line["schedule"], line["outcome"], line["session"], line["level"]) == (
            "heartbeat:clerk",
            "ran",
            1,
            "info",
        )
        assert json.loads(home.walrusctl("status", "--json").stdout)["schedule"] == ["heartbeat:clerk"]
        [first] = schedule_json(home, "history")["ticks"]
        todo = home.path / "agents" / "clerk.todo"
        assert first["text"] == f"Look around.\n\nThings to do, from {todo}:\n\n- fix the roof"
        daemon.kill()
    with home.walrusd():
        [schedule] = schedule_json(home, "list")["schedules"]
        slots = (schedule["next_slot"] - first["slot"]) / 5.004
        assert slots == pytest.approx(round(slots), abs=1e-3), "a crash must not move the slots"
        assert schedule_json(home, "history")["ticks"][-1] == first


def test_a_tick_interrupted_by_a_stop_is_recorded_with_its_turn_at_the_next_start(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", TOML_WITH_HANGING_SCRIPT + HEARTBEAT.format(interval=60))
    home.write("script.toml", '[[reply]]\ntext = "I am look"\nhang = true\n')
    with (
        home.walrusd() as daemon,
        subprocess.Popen(
            home.command_line("schedule", "run", "heartbeat:clerk"),
            env=home.environ(),
            cwd=ROOT,
            stderr=subprocess.PIPE,
        ) as waiting,
    ):
        while home.walrusctl("session", "wait", "1", "--state", "processing").returncode:
            assert waiting.poll() is None
        assert daemon.terminate() == 0
        assert waiting.wait(MAX_WAIT_S) == 4, "the command must report that walrusd is stopping"
    with home.walrusd():
        while (row := schedule_json(home, "history")["ticks"][0])["outcome"] == "running":
            pass  # it is closed while walrusd already serves; each poll is a new process
        assert (row["outcome"], row["reason"]) == ("interrupted", "walrusd was stopped during the tick")
        assert row["ran"] == {"session": 1, "turn": 1, "cost_usd": None}
        assert home.walrusctl("session", "wait", "1", "--state", "closed").returncode == 0
        [session] = json.loads(home.walrusctl("session", "list", "--all", "--json").stdout)["sessions"]
        assert (session["state"], session["created_by"]) == ("closed", "heartbeat")


def test_a_heartbeat_added_by_a_reload_can_be_run_paused_and_resumed_by_command(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO)
    with home.walrusd():
        assert schedule_json(home, "list") == {"schedules": []}
        home.write("walrus.toml", ECHO + HEARTBEAT.format(interval=0.0834))
        assert home.walrusctl("reload").returncode == 0
        [schedule] = schedule_json(home, "list")["schedules"]
        assert schedule["every_s"] == 5.004, "rounded to the microsecond"
        home.write("walrus.toml", ECHO + HEARTBEAT.format(interval=60))
        assert home.walrusctl("reload").returncode == 0
        [schedule] = schedule_json(home, "list")["schedules"]
        assert (schedule["name"], schedule["every_s"], schedule["last"]) == ("heartbeat:clerk", 3600.0, None)
        assert schedule_json(home, "pause", "clerk")["next_slot"] is None
        done = home.walrusctl("schedule", "run", "clerk")
        assert (done.returncode, done.stdout) == (0, "Look around.\n")
        assert schedule_json(home, "resume", "clerk")["next_slot"] == schedule["next_slot"]
        [row] = schedule_json(home, "history", "clerk")["ticks"]
        assert (row["by"], row["outcome"], row["ran"]["session"], row["ran"]["turn"]) == ("hand", "ran", 1, 1)
        lost = home.walrusctl("schedule", "run", "clark")
        assert (lost.returncode, "hint: `walrusctl schedule list` lists all schedules." in lost.stderr) == (3, True)


def test_a_tick_cannot_start_a_tick(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO)
    inner = shlex.join([sys.executable, "-c", WALRUSCTL, "--home", str(home.path), "schedule", "run", "clerk"])
    path = os.pathsep.join(str(ROOT / folder) for folder in (".", "protocol", "config"))
    (home.path / "workspace").mkdir()
    probe = json.dumps(f"PYTHONPATH={path} {inner} 2>&1")
    home.write("walrus.toml", f"{ECHO}{HEARTBEAT.format(interval=60)}probe = {probe}\n")
    with home.walrusd():
        done = home.walrusctl("schedule", "run", "clerk")
        assert "exit status 5):\n\nwalrusctl: this process was started by walrusd's own tools" in done.stdout
        assert len(schedule_json(home, "history")["ticks"]) == 1
