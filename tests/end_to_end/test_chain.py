"""The chain of a real walrusd: whole through turns, forks, restarts and kills, and proved while it runs."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tests.fakes.home import ECHO, Home, Walrusd
from walrus_protocol.client import Client

CHAINED = f"{ECHO}[storage]\nchain = true\n"
LONG = "very long " * 1000


def head(home: Home, *words: str) -> str:
    verified = home.walrusctl("verify", *words)
    assert verified.returncode == 0, verified.stderr
    return verified.stdout.strip()


def logged(daemon: Walrusd, at: str) -> list[str]:
    return [line["head"] for line in daemon.lines("chain") if line["at"] == at]


def talk(socket: Path, turns: int) -> None:
    """Turns, short and long ones, forks of them and sessions that are closed."""
    with Client(str(socket), 30) as client:
        session = client.call("session.create", {"agent": "walrus"})["session"]
        for turn in range(turns):
            client.call("session.send", {"session": session, "content": LONG if turn % 5 == 0 else "hi"})
            if turn % 10 == 9:
                forked = client.call("session.fork", {"session": session})["session"]
                client.call("session.close", {"session": session})
                session = forked


def test_a_chain_is_whole_while_it_is_written_after_a_restart_and_after_a_kill(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", CHAINED)
    heads = []
    with home.walrusd() as daemon, ThreadPoolExecutor() as pool:
        assert logged(daemon, "start") == [f"0:{'0' * 64}"]
        talking = pool.submit(talk, daemon.socket, 60)
        while not talking.done():
            heads.append(head(home))
        talking.result()
        heads.append(head(home))
    assert logged(daemon, "stop") == heads[-1:] == [head(home)]
    for number in range(2):
        with home.walrusd() as daemon:
            assert logged(daemon, "start") == [heads[-1]]
            talk(daemon.socket, 10)
            if number:
                with ThreadPoolExecutor() as pool:
                    cut_off = pool.submit(talk, daemon.socket, 1000)
                    heads.append(head(home))
                    daemon.kill()
                    assert cut_off.exception()
        heads.append(head(home))
    for noted in heads:
        assert head(home, "--since", noted) == heads[-1]


def test_a_chain_that_is_switched_on_late_and_off_and_on_tells_what_it_does_not_cover(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for toml in (ECHO, CHAINED, ECHO, CHAINED, ECHO):
        home.write("walrus.toml", toml)
        with home.walrusd() as daemon:
            talk(daemon.socket, 1)
    verified = home.walrusctl("verify")
    assert (verified.returncode, verified.stderr.splitlines()) == (
        0,
        [
            "offsets 1 to 4 are of no chain: it was switched off",
            "offsets 9 to 12 are of no chain: it was switched off",
            "what was written after offset 16 is of no chain: it was switched off",
            "8 events are as they were written",
        ],
    )
    stretches = json.loads(home.walrusctl("verify", "--json").stdout)["stretches"]
    assert [(stretch["first"], stretch["last"]) for stretch in stretches] == [(5, 8), (13, 16)]


def test_a_reload_does_not_switch_it_and_says_so(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.walrusd() as daemon:
        home.write("walrus.toml", CHAINED)
        assert json.loads(home.walrusctl("reload", "--json").stdout)["at_restart"] == ["storage.chain"]
        talk(daemon.socket, 1)
        assert home.walrusctl("verify").returncode == 2


def test_what_is_thrown_away_and_what_came_with_an_import_leave_the_chain_whole(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", CHAINED + "retain_closed_days = 0.0000001\n")
    with home.walrusd() as daemon:
        talk(daemon.socket, 21)
        assert home.walrusctl("session", "export", "3", "-o", str(tmp_path / "third.json")).returncode == 0
        imported = home.walrusctl("session", "import", str(tmp_path / "third.json")).stdout.strip()
        before = head(home)
        assert home.walrusctl("session", "close", "3").returncode == 0
        assert home.walrusctl("session", "close", imported).returncode == 0
        assert home.walrusctl("gc").returncode == 0
        after = json.loads(home.walrusctl("verify", "--since", before, "--json").stdout)
        with closing(sqlite3.connect(home.path / "walrus.db")) as db:
            [[left]] = db.execute("SELECT count(*) FROM event")
    assert (after["whole"], after["thrown_away"]) == (True, after["events"] - left)
    assert after["thrown_away"] > 100
