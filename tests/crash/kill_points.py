"""The kill points of a run, numbered in the order in which the run reaches them, with descriptions."""

import os
import signal
from typing import Literal

from msgspec import Struct

Moment = Literal["before", "durable", "applied", "here"]
"""The moment at which a kill point is reached.

A write has three: before it is submitted, when it is durable but not reported, and when its effects are applied.
Everything else has one: `here`.
"""


class KillPoint(Struct, frozen=True):
    description: str
    moment: Moment = "here"


class KillPoints:
    """Records the kill points reached.

    At number `kill_at` the process kills itself with SIGKILL; 0 is never.
    """

    def __init__(self, kill_at: int = 0) -> None:
        self.reached: list[KillPoint] = []
        self._kill_at = kill_at

    def reach(self, description: str, moment: Moment = "here") -> None:
        self.reached.append(KillPoint(description, moment))
        if len(self.reached) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
