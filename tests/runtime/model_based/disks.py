"""The disks of the machine, and what is left on them."""

import shutil
from pathlib import Path
from typing import Protocol

import apsw
from msgspec import Struct

from walrusd.store.contract import Log
from walrusd.store.memory import MemoryLog
from walrusd.store.memory_tables import MemoryTables
from walrusd.store.sqlite import SqliteLog


class DiskContents(Struct):
    """What a disk has, whoever may see it: not asked of the store, which would not tell."""

    seqs: dict[int, list[int]]
    """Of the rows of each session, listed or not, the daemon's too."""
    with_side_rows: set[int]
    """Sessions that anything is kept of beside their events."""
    with_parent: set[int]
    """Sessions of which it is known from whom they go on."""
    unlisted: set[int]
    """Sessions that are known to have no row of their own."""
    orphan_rows: int
    """Texts, outputs and words of the index that belong to nothing."""


class PowerCutDisk(Protocol):
    async def open(self) -> Log:
        """The log as the life before left it."""

    def cut_power(self) -> None:
        """Take the power away: the next log finds what is durable at this instant, whatever the last one does yet."""

    def contents(self) -> DiskContents: ...


class PowerCutMemoryDisk:
    def __init__(self) -> None:
        self._disk = MemoryTables()

    async def open(self) -> MemoryLog:
        return MemoryLog(self._disk)

    def cut_power(self) -> None:
        MemoryLog(self._disk)

    def contents(self) -> DiskContents:
        disk = self._disk
        beside = {
            session
            for session, kept in disk.sessions.items()
            if kept.inbox or kept.idempotency_keys or kept.turns or kept.draft or kept.outputs
        }
        claimed = {ref for kept in disk.sessions.values() for ref in kept.outputs}
        return DiskContents(
            seqs={session: [row.seq for row in kept.rows] for session, kept in disk.sessions.items() if kept.rows},
            with_side_rows=beside | {session for session, _ in disk.create_keys.values()},
            with_parent={*disk.forks},
            unlisted={*disk.unlisted_sessions},
            orphan_rows=len(disk.outputs.keys() - claimed),
        )


SEQS_SQL = "SELECT session, seq FROM event ORDER BY session, seq"
SIDE_ROWS_SQL = " UNION ".join(
    f"SELECT session FROM {table}" for table in ("sent", "created_with", "turn", "draft", "inbox", "output_of")
)
ORPHANS_SQL = """SELECT (SELECT count(*) FROM text WHERE digest NOT IN (SELECT text FROM event WHERE text IS NOT NULL))
+ (SELECT count(*) FROM output WHERE ref NOT IN (SELECT ref FROM output_of))
+ (SELECT count(*) FROM said_docsize WHERE id NOT IN (SELECT "offset" FROM event))"""


class PowerCutFileDisk:
    """SQLite's files are copied at the instant of the cut, while its threads write on."""

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
        # The database first: no checkpoint moves pages from the one to the other, so little is written.
        for name in ("walrus.db", "walrus.db-wal"):
            if (before / name).exists():
                shutil.copyfile(before / name, self._current_folder / name)

    def contents(self) -> DiskContents:
        db = apsw.Connection(str(self._current_folder / "walrus.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
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
        finally:
            db.close()
