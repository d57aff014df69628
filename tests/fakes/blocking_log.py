"""A store that keeps what it is given until it is released: everything that happens meanwhile is a race."""

from walrusd.store.contract import Write
from walrusd.store.memory import MemoryLog


class BlockingLog(MemoryLog):
    def __init__(self) -> None:
        super().__init__()
        self.is_blocking = False
        self.blocked_writes: list[Write] = []

    def submit(self, write: Write) -> None:
        if self.is_blocking:
            self.blocked_writes.append(write)
        else:
            super().submit(write)

    def release(self) -> None:
        """Write all of it, and from now on what comes."""
        self.is_blocking = False
        self._write_blocked()

    def release_one(self) -> None:
        """Write what is held, and hold what comes after it."""
        assert len(self.blocked_writes) == 1, "a session has one write under way"
        self._write_blocked()

    def _write_blocked(self) -> None:
        held, self.blocked_writes = self.blocked_writes, []
        for write in held:
            super().submit(write)
