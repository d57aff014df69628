"""What every measurement is given."""

from pathlib import Path

from msgspec import Struct


class Setup(Struct, frozen=True, kw_only=True):
    url: str
    """The fake provider's."""
    folder: Path
    """For homes; on a disk, for what is measured includes its syncs."""
    quick: bool
    turns: int
    """For the growth of memory."""

    def scale(self, count: int) -> int:
        """`count`, or a quarter of it where a rough answer will do."""
        return max(1, count // 4) if self.quick else count
