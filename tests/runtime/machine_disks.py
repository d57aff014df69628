"""The disks of the machine, and what is left on them."""

import shutil
from pathlib import Path
from typing import Protocol

import apsw
from msgspec import Struct

from walrusd.store.disk import Disk
from walrusd.store.log import Log
from walrusd.store.memory import MemoryLog
from walrusd.store.sqlite import SqliteLog


class Left(Struct):
    """What a disk has, whoever may see it: not asked of the store, which would not tell."""

    seqs: dict[int, list[int]]
    """Of the rows of each session, listed or not, the daemon's too."""
    beside: set[int]
    """Sessions that anything is kept of beside their events."""
    going_on: set[int]
    """Sessions of which it is known from whom they go on."""
    unlisted: set[int]
    """Sessions that are known to have no row of their own."""
    strays: int
    """Texts, outputs and words of the index that belong to nothing."""


class MachineDisk(Protocol):
    async def open(self) -> Log:
        """The log as the life before left it."""

    def cut(self) -> None:
        """Take the power away: the next log finds what is durable at this instant, whatever the last one does yet."""

    def left(self) -> Left: ...


class InMemory:
    def __init__(self) -> None:
        self._disk = Disk()

    async def open(self) -> MemoryLog:
        return MemoryLog(self._disk)

    def cut(self) -> None:
        MemoryLog(self._disk)

    def left(self) -> Left:
        disk = self._disk
        beside = {
            session
            for session, kept in disk.sessions.items()
            if kept.inbox or kept.sent or kept.turns or kept.draft or kept.outputs
        }
        claimed = {ref for kept in disk.sessions.values() for ref in kept.outputs}
        return Left(
            seqs={session: [row.seq for row in kept.rows] for session, kept in disk.sessions.items() if kept.rows},
            beside=beside | {session for session, _ in disk.created.values()},
            going_on={*disk.forks},
            unlisted={*disk.remains},
            strays=len(disk.outputs.keys() - claimed),
        )


SEQS = "SELECT session, seq FROM event ORDER BY session, seq"
BESIDE = " UNION ".join(
    f"SELECT session FROM {table}" for table in ("sent", "created_with", "turn", "draft", "inbox", "output_of")
)
STRAYS = """SELECT (SELECT count(*) FROM text WHERE digest NOT IN (SELECT text FROM event WHERE text IS NOT NULL))
+ (SELECT count(*) FROM output WHERE ref NOT IN (SELECT ref FROM output_of))
+ (SELECT count(*) FROM said_docsize WHERE id NOT IN (SELECT "offset" FROM event))"""


class InFiles:
    """SQLite's files are copied at the instant of the cut, while its threads write on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._life = 0
        self._here.mkdir()

    @property
    def _here(self) -> Path:
        return self._folder / str(self._life)

    async def open(self) -> SqliteLog:
        return await SqliteLog.open(str(self._here / "walrus.db"), durability="normal")

    def cut(self) -> None:
        before = self._here
        self._life += 1
        self._here.mkdir()
        # The database first: no checkpoint moves pages from the one to the other, so little is written.
        for name in ("walrus.db", "walrus.db-wal"):
            if (before / name).exists():
                shutil.copyfile(before / name, self._here / name)

    def left(self) -> Left:
        db = apsw.Connection(str(self._here / "walrus.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            seqs: dict[int, list[int]] = {}
            for session, seq in db.execute(SEQS):
                seqs.setdefault(session, []).append(seq)
            return Left(
                seqs=seqs,
                beside={session for (session,) in db.execute(BESIDE)},
                going_on={session for (session,) in db.execute("SELECT child FROM fork")},
                unlisted={session for (session,) in db.execute("SELECT session FROM remains")},
                strays=db.execute(STRAYS).get,
            )
        finally:
            db.close()
