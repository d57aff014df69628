"""Disks whose power can be cut, in memory and in files, and a view of their raw contents."""

import shutil
from pathlib import Path
from typing import Protocol

import apsw
from msgspec import Struct

from tests.fakes.memory_log import MemoryLog
from walrusd.store.contract import Log
from walrusd.store.sqlite import SqliteLog


class DiskContents(Struct):
    """The raw contents of a disk, with rows that the store does not list."""

    seqs: dict[int, list[int]]
    """Seqs of the rows of each session, listed or not, and of the daemon."""
    with_side_rows: set[int]
    """Sessions with rows in tables other than the event table."""
    with_parent: set[int]
    """Sessions with a recorded parent."""
    unlisted: set[int]
    """Sessions that are recorded as having events, but no session row."""
    orphan_rows: int
    """Number of texts, outputs and search index entries that belong to no event or session."""


class PowerCutDisk(Protocol):
    """A disk that keeps what is durable at a power cut."""

    async def open(self) -> Log:
        """Opens the log as the last run left it."""

    def cut_power(self) -> None:
        """Cuts the power: the next log has only what is durable now, whatever the last one still writes."""

    def contents(self) -> DiskContents:
        """Returns the raw contents."""


class PowerCutMemoryDisk:
    """A disk of the store in memory."""

    def __init__(self) -> None:
        self._log = MemoryLog()

    async def open(self) -> MemoryLog:
        self._log = MemoryLog(self._log)
        return self._log

    def cut_power(self) -> None:
        self._log.kill()

    def contents(self) -> DiskContents:
        return read_contents(self._log.db)


SEQS_SQL = "SELECT session, seq FROM event ORDER BY session, seq"
SIDE_ROWS_SQL = " UNION ".join(
    f"SELECT session FROM {table}" for table in ("sent", "created_with", "turn", "draft", "inbox", "output_of")
)
ORPHANS_SQL = """SELECT (SELECT count(*) FROM text WHERE digest NOT IN (SELECT text FROM event WHERE text IS NOT NULL))
+ (SELECT count(*) FROM output WHERE ref NOT IN (SELECT ref FROM output_of))
+ (SELECT count(*) FROM said_docsize WHERE id NOT IN (SELECT "offset" FROM event))"""


class PowerCutFileDisk:
    """A disk of the SQLite store. A power cut copies its files while its threads continue to write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = 0
        self._current_folder.mkdir()

    @property
    def _current_folder(self) -> Path:
        return self._folder / str(self._run)

    async def open(self) -> SqliteLog:
        return await SqliteLog.open(str(self._current_folder / "walrus.db"), durability="normal")

    def cut_power(self) -> None:
        before = self._current_folder
        self._run += 1
        self._current_folder.mkdir()
        # The database first: so little is written that no checkpoint moves pages between the two files.
        for name in ("walrus.db", "walrus.db-wal"):
            if (before / name).exists():
                shutil.copyfile(before / name, self._current_folder / name)

    def contents(self) -> DiskContents:
        db = apsw.Connection(str(self._current_folder / "walrus.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return read_contents(db)
        finally:
            db.close()


def read_contents(db: apsw.Connection) -> DiskContents:
    seqs: dict[int, list[int]] = {}
    for session, seq in db.execute(SEQS_SQL):
        seqs.setdefault(session, []).append(seq)
    return DiskContents(
        seqs=seqs,
        with_side_rows={session for (session,) in db.execute(SIDE_ROWS_SQL)},
        with_parent={session for (session,) in db.execute("SELECT child FROM fork")},
        unlisted={session for (session,) in db.execute("SELECT session FROM remains")},
        orphan_rows=db.execute(ORPHANS_SQL).get,
    )
