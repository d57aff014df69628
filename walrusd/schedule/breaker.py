"""The breaker: what keeps a heartbeat that fails and fails from being paid for at every slot. Pure.

Three failures in a row open it; so does a single one that the next tick would only repeat: a key that is refused, a
quota that is used up. Each failure after that doubles the time it stays open. A success closes it.
"""

from msgspec.structs import replace

from walrus_protocol.content import TurnErrorKind
from walrusd.store.log import Schedule

FAILURES = 3
"""In a row."""
AT_ONCE: frozenset[TurnErrorKind] = frozenset({"provider_auth", "provider_quota"})
"""Each counts as all of them."""
MOST_S = 24 * 3600.0


def is_open(row: Schedule, now: float) -> bool:
    """Never for longer than a day: where it says more, the clock was set back since."""
    return row.closed_until is not None and now < row.closed_until <= now + MOST_S


def after_failure(row: Schedule, every_s: float, now: float, *, at_once: bool) -> Schedule:
    """The schedule after one more failure, which ended `now`."""
    failures = max(row.failures + 1, FAILURES if at_once else 0)
    if failures < FAILURES:
        return replace(row, failures=failures)
    doublings = min(failures - FAILURES + 1, 64)  # beyond that a float could not hold it
    return replace(row, failures=failures, closed_until=now + min(every_s * 2**doublings, MOST_S))


def closed(row: Schedule) -> Schedule:
    """The schedule after a success, or by hand."""
    return replace(row, failures=0, closed_until=None)
