"""The breaker: what keeps a heartbeat that fails and fails from being paid for at every slot. Pure.

Three failures in a row open it; so does a single one that the next tick would only repeat: a key that is refused, a
quota that is used up. Each failure after that doubles the time it stays open. A success closes it.
"""

from msgspec.structs import replace

from walrus_protocol.content import TurnErrorKind
from walrusd.store.contract import ScheduleRow

FAILURES_TO_OPEN = 3
"""In a row."""
IMMEDIATE_OPEN_KINDS: frozenset[TurnErrorKind] = frozenset({"provider_auth", "provider_quota"})
"""Each counts as all of them."""
MAX_OPEN_S = 24 * 3600.0


def is_open(row: ScheduleRow, now: float) -> bool:
    """Never for longer than a day: where it says more, the clock was set back since."""
    return row.closed_until is not None and now < row.closed_until <= now + MAX_OPEN_S


def after_failure(row: ScheduleRow, every_s: float, now: float, *, opens_breaker: bool) -> ScheduleRow:
    """The schedule after one more failure, which ended `now`."""
    failures = max(row.failures + 1, FAILURES_TO_OPEN if opens_breaker else 0)
    if failures < FAILURES_TO_OPEN:
        return replace(row, failures=failures)
    doublings = min(failures - FAILURES_TO_OPEN + 1, 64)  # beyond that a float could not hold it
    return replace(row, failures=failures, closed_until=now + min(every_s * 2**doublings, MAX_OPEN_S))


def reset(row: ScheduleRow) -> ScheduleRow:
    """The schedule after a success, or by hand."""
    return replace(row, failures=0, closed_until=None)
