"""docs/crash-matrix.md, drawn from the matrix as it turns out: its head, and a section for each part."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from tests.crash.boundaries import Place
from tests.crash.lives import Lives
from tests.crash.matrix import DISKS, Killed, KilledTwice, kills, refusals, second_kills

HEAD = """\
# The crash matrix

What a turn is made of has a number: each write, before it is handed to the disk, when it is durable and nobody knows,
and when everybody knows (*applied*); each effect of a tool, before and after; each word of the model. `tests/crash`
ends walrusd at every number, starts it again on the same home, and has it go on to the end. This page is drawn from
what came out: `python -m tests.crash.draw` draws it anew, and a test fails where it is stale.

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


def _kills(lives: Lives) -> str:
    rows = kills(lives)
    closed = [row.closes for row in rows if row.closes is not None]
    return "\n".join(
        [
            "## Killed once",
            "",
            'By SIGKILL, then started with `on_restart = "continue"`; and with `"close"`, once for each write.',
            "",
            *_counts({"continue": [row.continues for row in rows], "close": closed}),
            "",
            *_table(["number", "where", "continue", "close"], _merged(rows)),
        ]
    )


def _merged(rows: Sequence[Killed]) -> Iterable[Sequence[str]]:
    """Neighbours of one place that ended in the same way share a row."""
    for (what, continues), together in groupby(rows, lambda row: (row.place.what, row.continues)):
        group = list(together)
        closes = next((row.closes for row in group if row.closes is not None), "")
        moments = ", ".join(row.place.moment for row in group if row.place.moment != "here")
        where = f"{what}: {moments}" if moments else what
        yield _range(group[0].number, group[-1].number), where, continues, closes


def _second_kills(lives: Lives) -> str:
    rows = second_kills(lives)
    return "\n".join(
        [
            "## Killed twice",
            "",
            "At the place named first, and then in the next life at each of its boundaries until the turn has ended. A",
            "turn that was going on when walrusd ended for the second time is not tried a third time; a round that was",
            "completed between the two ends, or a second end before `turn_resumed`, makes that the first.",
            "",
            *_counts({f"after {at.what}": list(_outcomes(rows, at)) for at in _firsts(rows)}),
            "",
            *_table(["first", "then", "from", "to", "outcome"], _stretches(rows)),
        ]
    )


def _firsts(rows: Sequence[KilledTwice]) -> list[Place]:
    return list(dict.fromkeys(row.at for row in rows))


def _outcomes(rows: Sequence[KilledTwice], at: Place) -> Iterable[str]:
    return (row.outcome for row in rows if row.at == at)


def _stretches(rows: Sequence[KilledTwice]) -> Iterable[Sequence[str]]:
    for (first, outcome), together in groupby(rows, lambda row: (row.first, row.outcome)):
        group = list(together)
        start, end = group[0], group[-1]
        yield str(first), _range(start.second, end.second), _told(start.then_at), _told(end.then_at), outcome


def _refusals(lives: Lives) -> str:
    rows = refusals(lives)
    return "\n".join(
        [
            "## On a disk that fails",
            "",
            "A full one (ENOSPC) refuses the first step of a write, a broken one (EIO) its sync: once, and it is well",
            "again; or every such step from then on, until walrusd is killed and started on a disk that is well.",
            "Meanwhile reads go on, and what is new is refused. (Every single step of a transaction: `tests/store`.)",
            "",
            *_counts({disk: [row.outcomes[disk] for row in rows] for disk in DISKS}),
            "",
            *_table(
                ["number", "write", *DISKS],
                ([str(row.write), row.what, *(row.outcomes[disk] for disk in DISKS)] for row in rows),
            ),
        ]
    )


SECTIONS: dict[str, Callable[[Lives], str]] = {
    "kills": _kills,
    "second kills": _second_kills,
    "refusals": _refusals,
}


def _counts(columns: dict[str, list[str]]) -> list[str]:
    """How many ended how, by the first word of the outcome."""
    counted = {name: Counter(outcome.split(",")[0] for outcome in outcomes) for name, outcomes in columns.items()}
    kinds = sorted({kind for counts in counted.values() for kind in counts})
    rows = [[kind or "as if nothing had been", *(str(counts[kind]) for counts in counted.values())] for kind in kinds]
    return _table(["outcome", *columns], [*rows, ["all", *(str(len(outcomes)) for outcomes in columns.values())]])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _told(place: Place) -> str:
    return place.what if place.moment == "here" else f"{place.what}: {place.moment}"
