"""The interface of a scheduled job; heartbeats implement it, and other jobs may be added."""

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from msgspec import Struct

from walrus_protocol.content import TickOutcome
from walrus_protocol.events import Tick, TurnRef
from walrusd.schedule.slot_policy import SlotDecision
from walrusd.store.tables.schedule import ScheduleRow


class TickResult(Struct, frozen=True, kw_only=True):
    """The outcome of a tick."""

    outcome: TickOutcome
    reason: str = ""
    ran: TurnRef | None = None
    text: str = ""
    news: bool = False
    probe_digest: str | None = None
    """The digest that the next tick compares with its own; None keeps the stored one."""
    opens_breaker: bool = False
    """Whether it failed in a way that the next tick would only repeat."""


STORE_RETRY_S = 30.0
"""Seconds to wait before the next attempt after the store could not write."""
STOPPING_REASON = "walrusd is stopping"
"""Reason of a tick that was skipped because of a stop."""


def idempotency_key_for(tick: Tick) -> str:
    """Returns the idempotency key with which a tick creates its session and recovery finds it."""
    return f"tick {tick.tick}"


OnTurnStart = Callable[[TurnRef, int | None], Awaitable[None]]
"""Records the turn that is about to begin, and the session that later ticks reuse, if they do.

It is awaited before the model is paid, so that the turn of an interrupted tick is known. Raises Cancelled if walrusd is
stopping; after it has returned, a stop no longer cancels the tick, only the turn.
"""


class Job(Protocol):
    """Something that runs at every slot of a schedule."""

    @property
    def name(self) -> str: ...

    @property
    def agent(self) -> str: ...

    @property
    def kind(self) -> Literal["heartbeat"]: ...

    @property
    def every_s(self) -> float:
        """Seconds between two slots, as clients see it."""

    @property
    def retry_base_s(self) -> float:
        """Seconds from which the breaker counts how long it stays open."""

    def next_after(self, time: float) -> float:
        """Returns the first slot after that time."""

    def moved_slot(self, before: "Job", next_slot: float, now: float) -> float:
        """Returns the next slot if this job replaces `before`, whose next slot that was."""

    def next_decision(self, row: ScheduleRow, now: float, *, running: bool) -> SlotDecision:
        """Returns what to do about the schedule at this time."""

    async def run(self, row: ScheduleRow, tick: Tick, on_turn_start: OnTurnStart) -> TickResult | None:
        """Runs the job once. Returns None if a stop interrupted it: the next start then closes the tick.

        Expected failures are part of the result; an exception is a bug.
        """
