"""What a look for room would throw away, reckoned without throwing anything away. Pure."""

from collections import defaultdict

from msgspec import Struct

from walrusd.store.retention_contract import ClosedSession, OutputRef


class DeletionStats(Struct):
    """What was thrown away, or would be. `bytes`: about so many."""

    sessions: int = 0
    outputs: int = 0
    events: int = 0
    bytes: int = 0


class DeletionCandidates(Struct, frozen=True, kw_only=True):
    """What there is: the closed sessions, the outputs that these alone have, and all outputs; each the oldest first."""

    closed_sessions: list[ClosedSession]
    closed_only_outputs: list[OutputRef]
    outputs: list[OutputRef]


def simulate_retention(
    candidates: DeletionCandidates, *, closed_before: float | None, excess_bytes: int
) -> DeletionStats:
    """`until`: sessions that were closed before then go in any case. `excess`: bytes beyond those that are allowed."""
    reckoned = _Simulation(candidates.outputs)
    for one in candidates.closed_sessions:
        if closed_before is not None and one.closed_at < closed_before:
            reckoned.expire(one)
    for claim in candidates.closed_only_outputs:
        if reckoned.stats.bytes < excess_bytes:
            reckoned.release_output(claim.session, claim.ref)
    for one in candidates.closed_sessions:
        if reckoned.stats.bytes < excess_bytes and one.bytes:
            reckoned.expire(one)
    for claim in candidates.outputs:
        if reckoned.stats.bytes < excess_bytes:
            reckoned.release_output(claim.session, claim.ref)
    return reckoned.stats


class _Simulation:
    """What is gone by now. An output goes with the last that has it."""

    def __init__(self, outputs: list[OutputRef]) -> None:
        self.stats = DeletionStats()
        self._expired: set[int] = set()
        self._sizes: dict[str, int] = defaultdict(int)
        self._holders: dict[str, set[int]] = defaultdict(set)
        self._refs: dict[int, list[str]] = defaultdict(list)
        for claim in outputs:
            self._sizes[claim.ref] += claim.bytes
            self._holders[claim.ref].add(claim.session)
            self._refs[claim.session].append(claim.ref)

    def expire(self, closed_session: ClosedSession) -> None:
        if closed_session.session in self._expired:
            return
        self._expired.add(closed_session.session)
        self.stats.sessions += 1
        self.stats.events += closed_session.events
        self.stats.bytes += closed_session.bytes
        for ref in self._refs[closed_session.session]:
            self.release_output(closed_session.session, ref)

    def release_output(self, session: int, ref: str) -> None:
        holders = self._holders[ref]
        if session in holders:
            holders.remove(session)
            if not holders:
                self.stats.outputs += 1
                self.stats.bytes += self._sizes[ref]
