"""Tests of damaged databases: walrusd reports the damage with a hint, and never ends with a traceback."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.home import Home, WalrusdProcess

PAGE_BYTES = 4096
EXIT_UNUSABLE = 78
"""Exit status after damage, as for a bad configuration.

Another try would fail too, so a service manager must not restart.
"""


@pytest.fixture(scope="module")
def intact_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a walrusd that was used and has ended normally."""
    home = Home(tmp_path_factory.mktemp("used") / "home")
    with home.walrusd():
        assert home.walrusctl("run", "walrus", "hi").returncode == 0
    return home.path / "walrus.db"


@pytest.fixture
def started_daemons(tmp_path: Path) -> Iterator[dict[str, WalrusdProcess]]:
    daemons: dict[str, WalrusdProcess] = {}
    yield daemons
    for daemon in daemons.values():
        daemon.process.kill()
        daemon.wait_exit()


def root_pages(database: Path) -> list[tuple[str, int]]:
    """Returns the name and the root page of each table and index."""
    with closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as db:
        return list(db.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))


@pytest.mark.parametrize("filling", [b"\x00", b"\xff"])
def test_a_damaged_page_of_any_table_is_reported_in_one_line_with_a_hint(
    intact_database: Path, started_daemons: dict[str, WalrusdProcess], tmp_path: Path, filling: bytes
) -> None:
    good = intact_database.read_bytes()
    pages = {"the whole schema": 1, **dict(root_pages(intact_database))}
    for name, page in pages.items():
        home = Home(tmp_path / str(page))
        start = (page - 1) * PAGE_BYTES + (
            100 if page == 1 else 0
        )  # the header stays: without it, the file is not a database
        (home.path / "walrus.db").write_bytes(
            good[:start] + filling * (page * PAGE_BYTES - start) + good[page * PAGE_BYTES :]
        )
        started_daemons[name] = home.start()
    for name, daemon in started_daemons.items():
        daemon.wait_for(lambda daemon: bool(daemon.lines_of("ready")) or ".recover" in daemon.stderr)
        if daemon.lines_of("ready"):  # the start did not need the page; a session that needs it reports the damage
            assert daemon.terminate() == 0, name
            assert "Traceback" not in daemon.stderr, name
        else:
            database = tmp_path / str(pages[name]) / "walrus.db"
            assert daemon.wait_exit() == EXIT_UNUSABLE, name
            assert daemon.stderr == (
                f"walrusd: {database} is damaged: database disk image is malformed\n"
                f"  Restore it from a backup, or save what can be read: sqlite3 {database} .recover\n"
            )
    needed = {"the whole schema", "sqlite_sequence", "counter", "inbox", "session_in_turn", "tick", "schedule"}
    assert needed <= {name for name, daemon in started_daemons.items() if not daemon.lines_of("ready")}


@pytest.mark.parametrize("lost", ["seq = 3", "seq > 1"])
def test_a_session_with_lost_events_refuses_writes_with_a_hint_to_doctor(tmp_path: Path, lost: str) -> None:
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
    assert f"{database} does not hold what walrusd wrote, so nothing can be added: UNIQUE" in refused.stderr
    assert "`walrusctl doctor` lists them; restore walrus.db from a backup." in refused.stderr


def test_a_request_that_reads_a_damaged_page_reports_it(intact_database: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    data = bytearray(intact_database.read_bytes())
    start = (dict(root_pages(intact_database))["event"] - 1) * PAGE_BYTES
    data[start : start + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    (home.path / "walrus.db").write_bytes(data)
    with home.walrusd():
        refused = home.walrusctl("run", "walrus", "hi")
    assert refused.returncode != 0
    assert f"{home.path / 'walrus.db'} is damaged" in refused.stderr
    assert ".recover" in refused.stderr
