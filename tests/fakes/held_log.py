"""A store that keeps what it is given until it is released: everything that happens meanwhile is a race."""

from walrusd.store.log import Write
from walrusd.store.memory import MemoryLog


class HeldLog(MemoryLog):
    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        self.held: list[Write] = []

    def submit(self, write: Write) -> None:
        if self.holds:
            self.held.append(write)
        else:
            super().submit(write)

    def release(self) -> None:
        """Write all of it, and from now on what comes."""
        self.holds = False
        self._let_go()

    def release_one(self) -> None:
        """Write what is held, and hold what comes after it."""
        assert len(self.held) == 1, "a session has one write under way"
        self._let_go()

    def _let_go(self) -> None:
        held, self.held = self.held, []
        for write in held:
            super().submit(write)
