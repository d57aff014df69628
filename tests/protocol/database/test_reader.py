"""The reader of walrus.db reads again if a fault may come from a walrusd that started or stopped meanwhile.

It blocks, and needs no trio: each test calls it directly.
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from walrus_protocol.database.reader import DatabaseReader, DatabaseUnreadable, read_stable


@pytest.fixture
def path(tmp_path: Path) -> str:
    with closing(sqlite3.connect(tmp_path / "walrus.db")) as db:
        db.execute("CREATE TABLE t (x)")
    return str(tmp_path / "walrus.db")


def faults_before(path: str, *changes: Callable[[str], object]) -> Callable[[DatabaseReader], str]:
    """Returns a read that finds a fault in each of the first calls, during which the file changes."""
    remaining = list(changes)

    def read(db: DatabaseReader) -> str:
        assert not db.is_empty
        if not remaining:
            return "intact"
        remaining.pop(0)(path)
        return "fault"

    return read


def write(path: str) -> None:
    os.utime(path, (1, 1))


def add_wal(path: str) -> None:
    Path(f"{path}-wal").touch()


def remove_wal(path: str) -> None:
    os.unlink(f"{path}-wal")


def is_fault(found: str) -> bool:
    return found == "fault"


def test_a_fault_is_read_again_as_often_as_the_file_changed_meanwhile(path: str) -> None:
    read = faults_before(path, write, add_wal, remove_wal)
    assert read_stable(path, read, is_fault=is_fault) == "intact"


def test_a_fault_of_an_unchanged_file_is_returned(path: str) -> None:
    assert read_stable(path, faults_before(path, str), is_fault=is_fault) == "fault"


def test_a_write_beside_a_write_ahead_log_is_no_reason_to_read_again(path: str) -> None:
    add_wal(path)
    assert read_stable(path, faults_before(path, write), is_fault=is_fault) == "fault"


def test_an_unreadable_file_is_read_again_only_if_it_changed(path: str) -> None:
    valid = Path(path).read_bytes()
    Path(path).write_bytes(b"this is not SQLite " * 100)
    with pytest.raises(DatabaseUnreadable, match="not a database") as caught:
        read_stable(path, faults_before(path), is_fault=is_fault)
    assert caught.value.fault == "not_a_database"

    def repair_and_read(db: DatabaseReader) -> str:
        try:
            return str(db.is_empty)
        finally:
            Path(path).write_bytes(valid)

    assert read_stable(path, repair_and_read, is_fault=is_fault) == "False"


def test_a_deadline_interrupts_a_long_read(path: str) -> None:
    endless = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with DatabaseReader(path) as db:
        db.set_deadline(0.0)
        with pytest.raises(TimeoutError), db.snapshot():
            db.number(endless)
        assert [*db.rows("SELECT * FROM t")] == []


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_rows_that_were_not_all_read_may_be_dropped_in_another_thread(path: str) -> None:
    """The checks of doctor run in threads, and an exception may keep their frames until another thread drops it."""
    unread: list[object] = []

    def read() -> None:
        with DatabaseReader(path) as db:
            rows = db.rows("SELECT 1 UNION ALL SELECT 2")
            next(rows)
            unread.append(rows)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    unread.clear()
