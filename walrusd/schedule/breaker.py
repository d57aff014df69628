"""The circuit breaker: a heartbeat that keeps failing is not paid for at every slot.

Pure functions. Three failures in a row open the breaker. A single failure opens it if the next tick would only repeat
it: a refused key or a used-up quota. Each further failure doubles the time that the breaker stays open. A success
closes it.
"""

from msgspec.structs import replace

from walrus_protocol.content import TurnErrorKind
from walrusd.store.tables.schedule import ScheduleRow

FAILURES_TO_OPEN = 3
"""Number of failures in a row that open the breaker."""
IMMEDIATE_OPEN_KINDS: frozenset[TurnErrorKind] = frozenset({"provider_auth", "provider_quota"})
"""Kinds of error that count as FAILURES_TO_OPEN failures at once."""
MAX_OPEN_S = 24 * 3600.0
"""Maximum seconds that the breaker stays open after a failure."""


def is_open(row: ScheduleRow, now: float) -> bool:
    """Returns whether the breaker is open.

    A closing time more than MAX_OPEN_S ahead is ignored, because the clock was set back.
    """
    return row.closed_until is not None and now < row.closed_until <= now + MAX_OPEN_S


def after_failure(row: ScheduleRow, retry_base_s: float, now: float, *, opens_breaker: bool) -> ScheduleRow:
    """Returns the schedule after one more failure, which ended at `now`.

    The first opening lasts twice `retry_base_s`.
    """
    failures = max(row.failures + 1, FAILURES_TO_OPEN if opens_breaker else 0)
    if failures < FAILURES_TO_OPEN:
        return replace(row, failures=failures)
    doublings = min(
        failures - FAILURES_TO_OPEN + 1, 64
    )  # 2**64 is far beyond MAX_OPEN_S; a much larger power would overflow
    return replace(row, failures=failures, closed_until=now + min(retry_base_s * 2**doublings, MAX_OPEN_S))


def reset(row: ScheduleRow) -> ScheduleRow:
    """Returns the schedule with a closed breaker, as after a success or a manual resume."""
    return replace(row, failures=0, closed_until=None)
