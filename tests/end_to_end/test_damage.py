"""A database with a page that holds something else: walrusd says what it is and what to do, and ends no otherwise."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.home import Home, Walrusd

PAGE = 4096
UNUSABLE = 78
"""As with a bad configuration: no other try finds it otherwise, so that no service manager makes one."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a walrusd that has been used and has ended."""
    home = Home(tmp_path_factory.mktemp("used") / "home")
    with home.walrusd():
        assert home.walrusctl("run", "walrus", "hi").returncode == 0
    return home.path / "walrus.db"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[dict[str, Walrusd]]:
    daemons: dict[str, Walrusd] = {}
    yield daemons
    for daemon in daemons.values():
        daemon.process.kill()
        daemon.ended()


def tables(database: Path) -> list[tuple[str, int]]:
    """Each table and index, and the page it begins at."""
    with closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as db:
        return list(db.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))


@pytest.mark.parametrize("filling", [b"\x00", b"\xff"])
def test_a_damaged_page_of_any_table_is_told_in_a_line_and_a_hint(
    sound: Path, started: dict[str, Walrusd], tmp_path: Path, filling: bytes
) -> None:
    good = sound.read_bytes()
    places = {"the whole schema": 1, **dict(tables(sound))}
    for name, page in places.items():
        home = Home(tmp_path / str(page))
        at = (page - 1) * PAGE + (100 if page == 1 else 0)  # the header stays: without it, it is no database
        (home.path / "walrus.db").write_bytes(good[:at] + filling * (page * PAGE - at) + good[page * PAGE :])
        started[name] = home.start()
    for name, daemon in started.items():
        daemon.wait_for(lambda daemon: bool(daemon.lines("ready")) or ".recover" in daemon.stderr)
        if daemon.lines("ready"):  # what is damaged was not needed; a session that needs it says so
            assert daemon.term() == 0, name
            assert "Traceback" not in daemon.stderr, name
        else:
            database = tmp_path / str(places[name]) / "walrus.db"
            assert daemon.ended() == UNUSABLE, name
            assert daemon.stderr == (
                f"walrusd: {database} is damaged: database disk image is malformed\n"
                f"  Restore it from a backup, or save what can be read: sqlite3 {database} .recover\n"
            )
    needed = {"the whole schema", "sqlite_sequence", "counter", "inbox", "session_in_turn", "tick", "schedule"}
    assert needed <= {name for name, daemon in started.items() if not daemon.lines("ready")}


@pytest.mark.parametrize("lost", ["seq = 3", "seq > 1"])
def test_a_session_that_has_lost_events_says_who_can_tell_more(tmp_path: Path, lost: str) -> None:
    home = Home(tmp_path / "home")
    database = home.path / "walrus.db"
    with home.walrusd():
        home.walrusctl("session", "create", "walrus")
        assert home.walrusctl("send", "1", "hi").returncode == 0
    with closing(sqlite3.connect(database)) as db, db:
        db.execute(f"DELETE FROM event WHERE session = 1 AND {lost}")
    with home.walrusd():
        refused = home.walrusctl("send", "1", "more")
    assert refused.returncode == 1
    assert f"{database} is not what walrusd has written, so nothing can be added there: UNIQUE" in refused.stderr
    assert "`walrusctl doctor` says which; restore walrus.db from a backup." in refused.stderr


def test_what_needs_a_damaged_page_later_says_so(sound: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    data = bytearray(sound.read_bytes())
    at = (dict(tables(sound))["event"] - 1) * PAGE
    data[at : at + PAGE] = b"\xff" * PAGE
    (home.path / "walrus.db").write_bytes(data)
    with home.walrusd():
        refused = home.walrusctl("run", "walrus", "hi")
    assert refused.returncode != 0
    assert f"{home.path / 'walrus.db'} is damaged" in refused.stderr
    assert ".recover" in refused.stderr
