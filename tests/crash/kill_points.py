"""The places of a life at which it may be killed: numbered as they are passed, each with a name."""

import os
import signal
from typing import Literal

from msgspec import Struct

Moment = Literal["before", "durable", "applied", "here"]
"""Of a write: before it is handed over, when it is on the disk and nobody knows, when everybody knows. Of an effect:
here."""


class KillPoint(Struct, frozen=True):
    description: str
    moment: Moment = "here"


class KillPoints:
    """All that are passed, in order. At number `dies_at` the process is killed as by -9; 0 is never."""

    def __init__(self, kill_at: int = 0) -> None:
        self.reached: list[KillPoint] = []
        self._kill_at = kill_at

    def reach(self, description: str, moment: Moment = "here") -> None:
        self.reached.append(KillPoint(description, moment))
        if len(self.reached) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
