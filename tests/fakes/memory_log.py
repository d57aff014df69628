"""A log in memory whose writes can fail on demand, and that can be killed and opened again."""

import apsw

from walrusd.store.contract import StorageFailed, StorageFull
from walrusd.store.database import open_in_memory
from walrusd.store.sqlite import SqliteLog


class MemoryLog(SqliteLog):
    """A log without a file and without threads. `MemoryLog(log)` is a restart: it has what was committed to `log`.

    While `fail_with` is set, every commit fails with such an error; reads still work.
    """

    def __init__(self, last: "MemoryLog | None" = None) -> None:
        self.db = open_in_memory()
        if last:
            last.kill()
            self.db.deserialize("main", last.db.serialize("main"))
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
