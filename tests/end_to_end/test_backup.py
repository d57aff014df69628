"""Tests of docs/backup.md: a copy that is made while walrusd runs can be restored and used."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.fakes.home import ECHO, Home

TOML_WITH_CHAIN = (
    ECHO
    + """
[storage]
chain = true
"""
)


def test_a_copy_made_while_walrusd_runs_is_a_complete_log(tmp_path: Path) -> None:
    home, copy = Home(tmp_path / "home", TOML_WITH_CHAIN), tmp_path / "walrus.db"
    with home.walrusd():
        assert home.walrusctl("session", "create", "walrus").stdout == "1\n"
        assert home.walrusctl("send", "1", "a walrus").returncode == 0
        with closing(sqlite3.connect(home.path / "walrus.db")) as db:
            db.execute("VACUUM INTO ?", (str(copy),))
        assert home.walrusctl("send", "1", "sent after the copy").returncode == 0
    other = Home(tmp_path / "other", TOML_WITH_CHAIN)
    shutil.copy(copy, other.path / "walrus.db")
    (other.path / "walrus.db").chmod(0o600)
    doctor = other.walrusctl("doctor").stdout
    assert "nothing is missing, unpaired or orphaned" in doctor
    with other.walrusd():
        assert "sent after the copy" not in other.walrusctl("session", "history", "1").stdout
        assert "a walrus" in other.walrusctl("session", "search", "walrus").stdout
        assert other.walrusctl("send", "1", "goes on").stdout == "goes on\n"
        assert other.walrusctl("verify").returncode == 0
