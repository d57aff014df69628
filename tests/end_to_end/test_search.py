"""Tests that `walrusctl session search` finds messages after walrusd was killed and restarted."""

import json
from pathlib import Path

from tests.fakes.home import ECHO, Home


def test_messages_are_found_after_a_kill(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO)
    with home.walrusd() as daemon:
        for text in ("The walrus sleeps", "Das Walroß schläft", "海象在睡觉"):
            session = home.walrusctl("session", "create", "walrus").stdout.strip()
            assert home.walrusctl("send", session, text).stdout == f"{text}\n"
        daemon.kill()
    with home.walrusd():
        assert search_hits(home, "walrus", "SLEEPS") == [(1, 3), (1, 2)]
        assert search_hits(home, "wal*") == [(2, 3), (2, 2), (1, 3), (1, 2)]
        assert search_hits(home, "schlaft") == [(2, 3), (2, 2)]
        assert search_hits(home, "象") == [(3, 3), (3, 2)]
        assert search_hits(home, "none") == []
        assert home.walrusctl("session", "search", "!").returncode == 2


def search_hits(home: Home, *words: str) -> list[tuple[int, int]]:
    found = json.loads(home.walrusctl("--json", "session", "search", *words).stdout)
    return [(hit["session"], hit["seq"]) for hit in found["hits"]]
