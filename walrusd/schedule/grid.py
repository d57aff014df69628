"""Slots at a constant interval. Pure."""

from msgspec import Struct


class Grid(Struct, frozen=True):
    """A fixed grid, which begins at any slot; implements Slots."""

    every_s: float

    def next_after(self, time: float) -> float:
        return time + self.every_s

    def passed(self, first: float, now: float) -> tuple[int, float]:
        count = int((now - first) // self.every_s) + 1 if first <= now else 1
        return count, first + (count - 1) * self.every_s

    def moved_slot(self, before: "Grid", next_slot: float, now: float) -> float:
        """Returns the next slot if this grid replaces `before`.

        It is counted from the last slot, or from now if that time has passed.
        """
        following = next_slot - before.every_s + self.every_s
        return following if following > now else self.next_after(now)
