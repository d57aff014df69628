"""The parameters that every benchmark receives."""

from pathlib import Path

from msgspec import Struct


class Setup(Struct, frozen=True, kw_only=True):
    url: str
    """The base URL of the fake provider."""
    folder: Path
    """The folder for homes. It is on a real disk, because the measurements include its syncs."""
    quick: bool
    turns: int
    """Number of turns of the memory benchmark."""

    def scale(self, count: int) -> int:
        """Returns `count`, or a quarter of it in a quick run."""
        return max(1, count // 4) if self.quick else count
