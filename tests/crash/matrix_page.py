"""docs/crash-matrix.md, drawn from the matrix as it turns out: its head, and a section for each part."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from tests.crash.forked_runs import ForkedRuns
from tests.crash.kill_points import KillPoint
from tests.crash.matrix import FAULT_KINDS, DoubleKillRow, KillRow, run_disk_faults, run_double_kills, run_kills

HEAD = """\
# The crash matrix

What a turn is made of has a number: each write, before it is handed to the disk, when it is durable and nobody knows,
and when everybody knows (*applied*); each effect of a tool, before and after; each word of the model. `tests/crash`
ends walrusd at every number, starts it again on the same home, and has it go on to the end. This page is drawn from
what came out: `python -m tests.crash.render` draws it anew, and a test fails where it is stale.

The life that is ended is the same each time: a conversation, a checkpoint, a fork, a turn of three rounds and a message
that has to wait for it, a steer, a turn of the fork, a rewind, and one more turn. The first round asks for two calls
that run side by side (`peek`), one with an effect (`touch`), one that is not permitted, and a command (`bash`); the
second for a call of an idempotent tool (`count`) and one that is none.

After each the log is examined: what was acknowledged is there, once; seqs have no gap, and offsets rise; each turn has
one `done`, each call one result; no call took effect twice, unless its tool is idempotent; nothing was published that
is not in the log; what was kept of a reply is in it; every request to a model, and the next one, is what OpenAI's and
Anthropic's wires take; a fork begins with its parent's history, and a rewind ends at its point.

Where a cell is empty, nothing shows that there was an end. *Went on*: `turn_resumed`, and the turn's own answer.
*Unknown* is a call whose effect the model is told is unknown, *not run* one that stood behind it, *rerun* one of an
idempotent tool that was begun once more. *Asked again*: the client was told `storage_full` or `storage_failed`, and
asked once more. *Quarantined*: `crashed_repeatedly`."""


def _kills_section(runs: ForkedRuns) -> str:
    rows = run_kills(runs)
    closed = [row.outcome_close for row in rows if row.outcome_close is not None]
    return "\n".join(
        [
            "## Killed once",
            "",
            'By SIGKILL, then started with `on_restart = "continue"`; and with `"close"`, once for each write.',
            "",
            *_outcome_counts({"continue": [row.outcome_continue for row in rows], "close": closed}),
            "",
            *_markdown_table(["number", "where", "continue", "close"], _merge_kill_rows(rows)),
        ]
    )


def _merge_kill_rows(rows: Sequence[KillRow]) -> Iterable[Sequence[str]]:
    """Neighbours of one place that ended in the same way share a row."""
    for (what, continues), together in groupby(rows, lambda row: (row.kill_point.description, row.outcome_continue)):
        group = list(together)
        closes = next((row.outcome_close for row in group if row.outcome_close is not None), "")
        moments = ", ".join(row.kill_point.moment for row in group if row.kill_point.moment != "here")
        where = f"{what}: {moments}" if moments else what
        yield _range(group[0].number, group[-1].number), where, continues, closes


def _double_kills_section(runs: ForkedRuns) -> str:
    rows = run_double_kills(runs)
    return "\n".join(
        [
            "## Killed twice",
            "",
            "At the place named first, and then in the next life at each of its boundaries until the turn has ended. A",
            "turn that was going on when walrusd ended for the second time is not tried a third time; a round that was",
            "completed between the two ends, or a second end before `turn_resumed`, makes that the first.",
            "",
            *_outcome_counts(
                {f"after {at.description}": list(_outcomes_after(rows, at)) for at in _first_points(rows)}
            ),
            "",
            *_markdown_table(["first", "then", "from", "to", "outcome"], _merge_double_kill_rows(rows)),
        ]
    )


def _first_points(rows: Sequence[DoubleKillRow]) -> list[KillPoint]:
    return list(dict.fromkeys(row.first_point for row in rows))


def _outcomes_after(rows: Sequence[DoubleKillRow], first_point: KillPoint) -> Iterable[str]:
    return (row.outcome for row in rows if row.first_point == first_point)


def _merge_double_kill_rows(rows: Sequence[DoubleKillRow]) -> Iterable[Sequence[str]]:
    for (first, outcome), together in groupby(rows, lambda row: (row.first, row.outcome)):
        group = list(together)
        start, end = group[0], group[-1]
        yield (
            str(first),
            _range(start.second, end.second),
            _kill_point_text(start.second_point),
            _kill_point_text(end.second_point),
            outcome,
        )


def _disk_faults_section(runs: ForkedRuns) -> str:
    rows = run_disk_faults(runs)
    return "\n".join(
        [
            "## On a disk that fails",
            "",
            "A full one (ENOSPC) refuses the first step of a write, a broken one (EIO) its sync: once, and it is well",
            "again; or every such step from then on, until walrusd is killed and started on a disk that is well.",
            "Meanwhile reads go on, and what is new is refused. (Every single step of a transaction: `tests/store`.)",
            "",
            *_outcome_counts({disk: [row.outcomes[disk] for row in rows] for disk in FAULT_KINDS}),
            "",
            *_markdown_table(
                ["number", "write", *FAULT_KINDS],
                (
                    [str(row.write), row.write_description, *(row.outcomes[disk] for disk in FAULT_KINDS)]
                    for row in rows
                ),
            ),
        ]
    )


SECTIONS: dict[str, Callable[[ForkedRuns], str]] = {
    "kills": _kills_section,
    "second kills": _double_kills_section,
    "refusals": _disk_faults_section,
}


def _outcome_counts(columns: dict[str, list[str]]) -> list[str]:
    """How many ended how, by the first word of the outcome."""
    counted = {name: Counter(outcome.split(",")[0] for outcome in outcomes) for name, outcomes in columns.items()}
    kinds = sorted({kind for counts in counted.values() for kind in counts})
    rows = [[kind or "as if nothing had been", *(str(counts[kind]) for counts in counted.values())] for kind in kinds]
    return _markdown_table(
        ["outcome", *columns], [*rows, ["all", *(str(len(outcomes)) for outcomes in columns.values())]]
    )


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _kill_point_text(kill_point: KillPoint) -> str:
    return kill_point.description if kill_point.moment == "here" else f"{kill_point.description}: {kill_point.moment}"
