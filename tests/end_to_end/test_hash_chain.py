"""Tests of the hash chain of a real walrusd: it stays intact through turns, forks, restarts and kills."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tests.fakes.home import ECHO, Home, WalrusdProcess
from walrus_protocol.client import Client

TOML_WITH_CHAIN = f"{ECHO}[storage]\nchain = true\n"
LONG_TEXT = "very long " * 1000


def verified_head(home: Home, *words: str) -> str:
    verified = home.walrusctl("verify", *words)
    assert verified.returncode == 0, verified.stderr
    return verified.stdout.strip()


def logged_heads(daemon: WalrusdProcess, moment: str) -> list[str]:
    return [line["head"] for line in daemon.lines_of("chain") if line["at"] == moment]


def run_turns(socket: Path, turns: int) -> None:
    """Runs short and long turns; every ten turns, forks the session, closes it and continues in the fork."""
    with Client(str(socket), 30) as client:
        session = client.call("session.create", {"agent": "walrus"})["session"]
        for turn in range(turns):
            client.call("session.send", {"session": session, "content": LONG_TEXT if turn % 5 == 0 else "hi"})
            if turn % 10 == 9:
                forked = client.call("session.fork", {"session": session})["session"]
                client.call("session.close", {"session": session})
                session = forked


def test_a_chain_is_intact_while_it_is_written_after_a_restart_and_after_a_kill(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", TOML_WITH_CHAIN)
    heads = []
    with home.walrusd() as daemon, ThreadPoolExecutor() as pool:
        assert logged_heads(daemon, "start") == [f"0:{'0' * 64}"]
        load = pool.submit(run_turns, daemon.socket, 60)
        while not load.done():
            heads.append(verified_head(home))
        load.result()
        heads.append(verified_head(home))
    assert logged_heads(daemon, "stop") == heads[-1:] == [verified_head(home)]
    for number in range(2):
        with home.walrusd() as daemon:
            assert logged_heads(daemon, "start") == [heads[-1]]
            run_turns(daemon.socket, 10)
            if number:
                with ThreadPoolExecutor() as pool:
                    interrupted = pool.submit(run_turns, daemon.socket, 1000)
                    heads.append(verified_head(home))
                    daemon.kill()
                    assert interrupted.exception()
        heads.append(verified_head(home))
    for head in heads:
        assert verified_head(home, "--since", head) == heads[-1]


def test_a_chain_enabled_late_or_intermittently_reports_what_it_does_not_cover(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for toml in (ECHO, TOML_WITH_CHAIN, ECHO, TOML_WITH_CHAIN, ECHO):
        home.write("walrus.toml", toml)
        with home.walrusd() as daemon:
            run_turns(daemon.socket, 1)
    verified = home.walrusctl("verify")
    assert (verified.returncode, verified.stderr.splitlines()) == (
        0,
        [
            "offsets 1 to 4 are not in the chain: it was switched off",
            "offsets 9 to 12 are not in the chain: it was switched off",
            "events after offset 16 are not in the chain: it was switched off",
            "8 events are as they were written",
        ],
    )
    stretches = json.loads(home.walrusctl("verify", "--json").stdout)["stretches"]
    assert [(stretch["first"], stretch["last"]) for stretch in stretches] == [(5, 8), (13, 16)]


def test_a_reload_does_not_switch_the_chain_and_warns_of_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.walrusd() as daemon:
        home.write("walrus.toml", TOML_WITH_CHAIN)
        assert json.loads(home.walrusctl("reload", "--json").stdout)["at_restart"] == ["storage.chain"]
        run_turns(daemon.socket, 1)
        assert home.walrusctl("verify").returncode == 2


def test_deletions_and_imports_leave_the_chain_intact(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", TOML_WITH_CHAIN + "retain_closed_days = 0.0000001\n")
    with home.walrusd() as daemon:
        run_turns(daemon.socket, 21)
        assert home.walrusctl("session", "export", "3", "-o", str(tmp_path / "third.json")).returncode == 0
        imported = home.walrusctl("session", "import", str(tmp_path / "third.json")).stdout.strip()
        before = verified_head(home)
        assert home.walrusctl("session", "close", "3").returncode == 0
        assert home.walrusctl("session", "close", imported).returncode == 0
        assert home.walrusctl("gc").returncode == 0
        after = json.loads(home.walrusctl("verify", "--since", before, "--json").stdout)
        with closing(sqlite3.connect(home.path / "walrus.db")) as db:
            [[left]] = db.execute("SELECT count(*) FROM event")
    assert (after["whole"], after["thrown_away"]) == (True, after["events"] - left)
    assert after["thrown_away"] > 100
