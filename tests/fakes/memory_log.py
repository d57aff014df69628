"""A log in memory whose writes can fail on demand, and that can be killed and opened again."""

from functools import cache

import apsw

from walrusd.store.database import open_in_memory
from walrusd.store.errors import StorageFailed, StorageFull
from walrusd.store.sqlite import SqliteLog


@cache
def _empty_database() -> bytes:
    """Returns what a new log contains; a copy is made in a tenth of the time of the migrations."""
    return open_in_memory().serialize("main")


class MemoryLog(SqliteLog):
    """A log without a file and without threads. `MemoryLog(log)` is a restart: it has what was committed to `log`.

    While `fail_with` is set, every commit fails with such an error; reads still work.
    """

    def __init__(self, last: "MemoryLog | None" = None) -> None:
        if last:
            last.kill()
        self.db = apsw.Connection(":memory:", statementcachesize=256)
        self.db.deserialize("main", last.db.serialize("main") if last else _empty_database())
        super().__init__(self.db)
        self.fail_with: StorageFailed | None = None
        self.db.set_commit_hook(self._on_commit)

    def kill(self) -> None:
        """Simulates a power cut: what is not committed by now never is, and fails."""
        self.fail_with = StorageFailed("the power is off")

    def _on_commit(self) -> bool:
        if self.fail_with:
            error = apsw.FullError if isinstance(self.fail_with, StorageFull) else apsw.IOError
            raise error(str(self.fail_with))
        return False
