"""Simulates retention: computes what it would delete, without deleting anything. Pure."""

from collections import defaultdict

from msgspec import Struct

from walrusd.store.retention_contract import ClosedSession, OutputRef


class DeletionStats(Struct):
    """Numbers of what was deleted, or would be. `bytes` is an estimate."""

    sessions: int = 0
    outputs: int = 0
    events: int = 0
    bytes: int = 0


class DeletionCandidates(Struct, frozen=True, kw_only=True):
    """Closed sessions, outputs that only closed sessions have, and all outputs; each oldest first."""

    closed_sessions: list[ClosedSession]
    closed_only_outputs: list[OutputRef]
    outputs: list[OutputRef]


def simulate_retention(
    candidates: DeletionCandidates, *, closed_before: float | None, excess_bytes: int
) -> DeletionStats:
    """Returns what retention would delete.

    Sessions closed before `closed_before` are deleted in any case. Then outputs and sessions are deleted until
    `excess_bytes`, the bytes over the limit, are freed.
    """
    simulation = _Simulation(candidates.outputs)
    for one in candidates.closed_sessions:
        if closed_before is not None and one.closed_at < closed_before:
            simulation.expire(one)
    for output in candidates.closed_only_outputs:
        if simulation.stats.bytes < excess_bytes:
            simulation.release_output(output.session, output.ref)
    for one in candidates.closed_sessions:
        if simulation.stats.bytes < excess_bytes and one.bytes:
            simulation.expire(one)
    for output in candidates.outputs:
        if simulation.stats.bytes < excess_bytes:
            simulation.release_output(output.session, output.ref)
    return simulation.stats


class _Simulation:
    """The state of a simulated retention run. An output is deleted with the last session that has it."""

    def __init__(self, outputs: list[OutputRef]) -> None:
        self.stats = DeletionStats()
        self._expired: set[int] = set()
        self._sizes: dict[str, int] = defaultdict(int)
        self._holders: dict[str, set[int]] = defaultdict(set)
        self._refs: dict[int, list[str]] = defaultdict(list)
        for output in outputs:
            self._sizes[output.ref] += output.bytes
            self._holders[output.ref].add(output.session)
            self._refs[output.session].append(output.ref)

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
