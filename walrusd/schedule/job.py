"""What the clock may start: the port that a heartbeat fills, and whatever else comes to be done by the clock."""

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from msgspec import Struct

from walrus_protocol.content import TickOutcome
from walrus_protocol.events import Tick, TurnRef
from walrusd.schedule.slot_policy import SlotDecision
from walrusd.store.contract import ScheduleRow


class TickResult(Struct, frozen=True, kw_only=True):
    """What became of a tick."""

    outcome: TickOutcome
    reason: str = ""
    ran: TurnRef | None = None
    text: str = ""
    news: bool = False
    probe_digest: str | None = None
    """What is to be compared at the next tick; None: what was there before."""
    opens_breaker: bool = False
    """It failed in a way that the next tick would only repeat."""


STORE_RETRY_S = 30.0
"""How long a store that could not write is left alone."""
STOPPING_REASON = "walrusd is stopping"
"""Why a tick was not begun."""


def idempotency_key_for(tick: Tick) -> str:
    """With which a tick makes a session of its own: made once, and found again by who cleans up after a crash."""
    return f"tick {tick.tick}"


OnTurnStart = Callable[[TurnRef, int | None], Awaitable[None]]
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

    def next_decision(self, row: ScheduleRow, now: float, *, running: bool) -> SlotDecision:
        """What is to be done about it at this time."""

    async def run(self, row: ScheduleRow, tick: Tick, on_turn_start: OnTurnStart) -> TickResult | None:
        """Do it, once. None where it was cut off by the daemon's stop: the next start will say what is known.

        Expected failures are told in what it answers; an exception is a bug.
        """
