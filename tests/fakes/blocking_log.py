"""An in-memory store that holds writes back until a test releases them, so that tests can force races."""

from tests.fakes.memory_log import MemoryLog
from walrusd.store.contract import Write


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
        """Writes everything that was held back, and stops holding writes back."""
        self.is_blocking = False
        self._write_blocked()

    def release_one(self) -> None:
        """Writes the one write that was held back; later writes are still held back."""
        assert len(self.blocked_writes) == 1, "a session has only one write in progress"
        self._write_blocked()

    def _write_blocked(self) -> None:
        held, self.blocked_writes = self.blocked_writes, []
        for write in held:
            super().submit(write)
