"""The params and results of schedule.*: heartbeats, and the ledger of their ticks."""

from typing import Literal

from msgspec import Struct

from walrus_protocol.content import TickOutcome, TickTrigger
from walrus_protocol.events import TurnRef
from walrus_protocol.methods.method import Method
from walrus_protocol.param_types import Limit, NoParams, Params, ShortText


class ScheduleParams(Params, frozen=True, kw_only=True):
    schedule: ShortText


class TickInfo(Struct, frozen=True, kw_only=True):
    """A row of the ledger: the outcome of one slot. It has the fields of the event `tick`."""

    tick: int
    schedule: str
    agent: str
    slot: float
    by: TickTrigger
    outcome: TickOutcome
    reason: str = ""
    count: int = 1
    ran: TurnRef | None = None
    text: str = ""
    news: bool = False
    started_at: float | None = None
    ended_at: float | None = None


class ScheduleInfo(Struct, frozen=True, kw_only=True):
    """A schedule.

    `next_slot` is null while it is paused; `closed_until` is set while its circuit breaker is open.
    """

    name: str
    agent: str
    kind: Literal["heartbeat"]
    every_s: float
    next_slot: float | None = None
    paused: bool = False
    running: bool = False
    failures: int = 0
    closed_until: float | None = None
    last: TickInfo | None = None


class ScheduleList(Struct, frozen=True, kw_only=True):
    schedules: tuple[ScheduleInfo, ...]


class TickHistoryParams(Params, frozen=True, kw_only=True):
    schedule: ShortText | None = None
    news: bool = False
    """True: only rows that a person needs to read."""
    limit: Limit = 50
    cursor: str | None = None


class TickHistory(Struct, frozen=True, kw_only=True):
    """A page of rows of the ledger, newest first."""

    ticks: tuple[TickInfo, ...]
    cursor: str | None = None


ROWS: dict[str, Method] = {
    "schedule.list": Method(NoParams, ScheduleList, inline=True),
    "schedule.run": Method(ScheduleParams, TickInfo),
    "schedule.pause": Method(ScheduleParams, ScheduleInfo),
    "schedule.resume": Method(ScheduleParams, ScheduleInfo),
    "schedule.history": Method(TickHistoryParams, TickHistory),
}
