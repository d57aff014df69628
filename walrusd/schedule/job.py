"""What the clock may start: the port that a heartbeat fills, and whatever else comes to be done by the clock."""

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from msgspec import Struct

from walrus_protocol.content import TickOutcome
from walrus_protocol.events import Ran, Tick
from walrusd.schedule.slots import Decision
from walrusd.store.log import Schedule


class Ended(Struct, frozen=True, kw_only=True):
    """What became of a tick."""

    outcome: TickOutcome
    reason: str = ""
    ran: Ran | None = None
    text: str = ""
    news: bool = False
    seen: str | None = None
    """What is to be compared at the next tick; None: what was there before."""
    at_once: bool = False
    """It failed in a way that the next tick would only repeat."""


RETRY_S = 30.0
"""How long a store that could not write is left alone."""
STOPPING = "walrusd is stopping"
"""Why a tick was not begun."""


def key_of(tick: Tick) -> str:
    """With which a tick makes a session of its own: made once, and found again by who cleans up after a crash."""
    return f"tick {tick.tick}"


Begun = Callable[[Ran, int | None], Awaitable[None]]
"""Told the turn that is about to begin, and the session that the next ticks go on with, where they do. It is awaited
before the model is paid: that much is known of a tick that is cut off. Raises Cancelled when walrusd stops, which from
then on leaves the tick to its turn."""


class Job(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def agent(self) -> str: ...

    @property
    def kind(self) -> Literal["heartbeat"]: ...

    @property
    def every_s(self) -> float:
        """Seconds between two slots."""

    def first_slot(self, now: float) -> float:
        """Of a schedule that is new."""

    def look(self, row: Schedule, now: float, *, running: bool) -> Decision:
        """What is to be done about it at this time."""

    async def fire(self, row: Schedule, tick: Tick, begun: Begun) -> Ended | None:
        """Do it, once. None where it was cut off by the daemon's stop: the next start will say what is known.

        Expected failures are told in what it answers; an exception is a bug.
        """
