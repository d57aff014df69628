"""Plans what retention deletes, and in which order. Pure functions; docs/space.md describes the rules for users."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct, field

from walrusd.store.retention_contract import CURSOR_START, Candidate, ClosedSession, Cursor, OutputRef

BATCH_SIZE = 64
"""Maximum sessions, or outputs, deleted in one transaction."""
MAX_BATCH_TURNS = 1000
"""Maximum turns of the sessions in one transaction, but at least one session.

As many turn and key rows are deleted with them, which takes some milliseconds.
"""
NO_LIMIT = 2**53
"""No limit, for byte counts and times: more than there can be."""


class DeletionStats(Struct, frozen=True):
    """Numbers of what was deleted, or would be. `bytes` is an estimate."""

    sessions: int = 0
    outputs: int = 0
    events: int = 0
    bytes: int = 0

    def __add__(self, more: "DeletionStats") -> "DeletionStats":
        return DeletionStats(
            self.sessions + more.sessions,
            self.outputs + more.outputs,
            self.events + more.events,
            self.bytes + more.bytes,
        )


class DeletionStep(Struct, frozen=True, kw_only=True):
    """One step of the order: the candidates to read, and the position before the first of them."""

    source: Literal["closed_sessions", "outputs_of_closed", "outputs_of_open"]
    start: Cursor = CURSOR_START
    closed_before: float = NO_LIMIT
    reason: Literal["retention", "space"] = "space"
    """`retention` if all candidates are deleted for their age, and not only as many as needed."""


class Deletions(Struct, kw_only=True):
    """A batch to delete in one transaction, and the position after the last candidate that was considered."""

    reason: Literal["retention", "space"]
    upto: Cursor
    sessions: list[int] = field(default_factory=list)
    outputs: list[tuple[int, str]] = field(default_factory=list)
    stats: DeletionStats = DeletionStats()


def deletion_order(closed_before: float | None) -> list[DeletionStep]:
    """Returns the steps. Sessions closed before `closed_before` go by their age, the rest to free space.

    The later steps leave out sessions past that age: those that are left are in use, and are kept until the next run.
    """
    if closed_before is None:
        steps, start = [], CURSOR_START
    else:
        steps = [DeletionStep(source="closed_sessions", closed_before=closed_before, reason="retention")]
        start = (closed_before, 0, "")
    return [
        *steps,
        DeletionStep(source="outputs_of_closed", start=start),
        DeletionStep(source="closed_sessions", start=start),
        DeletionStep(source="outputs_of_open"),
    ]


def plan(step: DeletionStep, candidates: Sequence[Candidate], needed_bytes: int) -> Deletions:
    """Returns which of the candidates, the oldest first, are deleted next to free `needed_bytes`."""
    deletions = Deletions(reason=step.reason, upto=step.start)
    by_age, turns = step.reason == "retention", 0
    for one in candidates:
        if deletions.stats.bytes >= needed_bytes:
            break
        match one:
            case ClosedSession():
                turns += one.turns
                if deletions.sessions and turns > MAX_BATCH_TURNS:
                    break
                if by_age or one.bytes:
                    deletions.sessions.append(one.session)
                    deletions.stats += DeletionStats(sessions=1, events=one.events, bytes=one.bytes)
                if by_age:  # otherwise the step before has released these outputs
                    deletions.stats += DeletionStats(outputs=one.last_outputs, bytes=one.last_output_bytes)
            case OutputRef():
                deletions.outputs.append((one.session, one.ref))
                deletions.stats += DeletionStats(outputs=one.bytes > 0, bytes=one.bytes)
        deletions.upto = one.cursor
    return deletions
