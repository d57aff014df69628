"""The places of a life at which it may be killed: numbered as they are passed, each with a name."""

import os
import signal
from typing import Literal

from msgspec import Struct

Moment = Literal["before", "durable", "applied", "here"]
"""Of a write: before it is handed over, when it is on the disk and nobody knows, when everybody knows. Of an effect:
here."""


class Place(Struct, frozen=True):
    what: str
    moment: Moment = "here"


class Boundaries:
    """All that are passed, in order. At number `dies_at` the process is killed as by -9; 0 is never."""

    def __init__(self, dies_at: int = 0) -> None:
        self.passed: list[Place] = []
        self._dies_at = dies_at

    def passing(self, what: str, moment: Moment = "here") -> None:
        self.passed.append(Place(what, moment))
        if len(self.passed) == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
