"""What a look for room would throw away, reckoned without throwing anything away. Pure."""

from collections import defaultdict

from msgspec import Struct

from walrusd.store.keeping import Claim, Closed


class Gone(Struct):
    """What was thrown away, or would be. `bytes`: about so many."""

    sessions: int = 0
    outputs: int = 0
    events: int = 0
    bytes: int = 0


class Found(Struct, frozen=True, kw_only=True):
    """What there is: the closed sessions, the outputs that these alone have, and all outputs; each the oldest first."""

    closed: list[Closed]
    of_closed: list[Claim]
    outputs: list[Claim]


def forecast(found: Found, *, until: float | None, excess: int) -> Gone:
    """`until`: sessions that were closed before then go in any case. `excess`: bytes beyond those that are allowed."""
    reckoned = _Reckoning(found.outputs)
    for one in found.closed:
        if until is not None and one.closed_at < until:
            reckoned.expire(one)
    for claim in found.of_closed:
        if reckoned.gone.bytes < excess:
            reckoned.release(claim.session, claim.ref)
    for one in found.closed:
        if reckoned.gone.bytes < excess and one.bytes:
            reckoned.expire(one)
    for claim in found.outputs:
        if reckoned.gone.bytes < excess:
            reckoned.release(claim.session, claim.ref)
    return reckoned.gone


class _Reckoning:
    """What is gone by now. An output goes with the last that has it."""

    def __init__(self, outputs: list[Claim]) -> None:
        self.gone = Gone()
        self._expired: set[int] = set()
        self._sizes: dict[str, int] = defaultdict(int)
        self._holders: dict[str, set[int]] = defaultdict(set)
        self._refs: dict[int, list[str]] = defaultdict(list)
        for claim in outputs:
            self._sizes[claim.ref] += claim.bytes
            self._holders[claim.ref].add(claim.session)
            self._refs[claim.session].append(claim.ref)

    def expire(self, one: Closed) -> None:
        if one.session in self._expired:
            return
        self._expired.add(one.session)
        self.gone.sessions += 1
        self.gone.events += one.events
        self.gone.bytes += one.bytes
        for ref in self._refs[one.session]:
            self.release(one.session, ref)

    def release(self, session: int, ref: str) -> None:
        holders = self._holders[ref]
        if session in holders:
            holders.remove(session)
            if not holders:
                self.gone.outputs += 1
                self.gone.bytes += self._sizes[ref]
