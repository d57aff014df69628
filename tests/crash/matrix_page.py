"""The text of docs/crash-matrix.md: its head, and a section for each part, generated from the runs."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from tests.crash.forked_runs import ForkedRuns
from tests.crash.kill_points import KillPoint
from tests.crash.matrix import FAULT_KINDS, DoubleKillRow, KillRow, run_disk_faults, run_double_kills, run_kills

HEAD = """\
# The crash matrix

`tests/crash` kills walrusd at every numbered kill point of a fixed run, starts it again in the same home, and lets it
run to the end. Each write has three kill points: *before* it is submitted, when it is *durable* but not reported, and
after the daemon has *applied* it. Each tool effect and each model reply has one before and one after it, and each reply
chunk has one after it. This page is generated from the outcomes: `python -m tests.crash.render` writes it, and a test
fails if it is out of date.

Every run sends the same requests: a conversation, a checkpoint, a fork, a turn of three rounds with a message queued
behind it and a steer, a turn of the fork, a rewind, and one more turn. The first round requests two concurrent calls
(`peek`), a call with an effect (`touch`), a call that is not permitted (`forbidden`), and a command (`bash`). The
second round requests a call of an idempotent tool (`count`) and a call of one that is not (`touch`).

After each run the log is checked:

- Every acknowledged message is in the log exactly once.
- Seq numbers have no gap, and offsets rise.
- Each turn has one `done`, and each call has one result.
- No call takes effect twice, unless its tool is idempotent.
- Every published event is in the log, and so is the text of every durable draft.
- OpenAI and Anthropic would accept every request to the model, and the next one.
- A fork begins with its parent's history, and a rewind ends at its target.

An empty cell (*no trace* in the counts) means that neither the log nor a client shows the kill or the fault. The
other outcomes are:

- *resumed*: the turn has a `turn_resumed` and then its own answer.
- *interrupted*: the turn was closed as `interrupted`.
- *quarantined*: the turn ended with the error `crashed_repeatedly`.
- *unknown*: a call whose result tells the model that its effect is unknown.
- *not run*: a call that had not started when the turn was interrupted.
- *rerun*: a call of an idempotent tool that was started again.
- *error: storage*: the turn ended with the error `storage`.
- *refused, sent again*: the client got `storage_full` or `storage_failed`, and sent its request again."""


def _kills_section(runs: ForkedRuns) -> str:
    rows = run_kills(runs)
    closes = [row.outcome_close for row in rows if row.outcome_close is not None]
    return "\n".join(
        [
            "## Killed once",
            "",
            "walrusd is killed with SIGKILL at each kill point, and started again with the named `on_restart`. `close`",
            "is run once for each write.",
            "",
            *_outcome_counts({"continue": [row.outcome_continue for row in rows], "close": closes}),
            "",
            *_markdown_table(["number", "kill point", "continue", "close"], _merge_kill_rows(rows)),
        ]
    )


def _merge_kill_rows(rows: Sequence[KillRow]) -> Iterable[Sequence[str]]:
    """Yields one table row for consecutive kill points with the same description and outcome."""
    for (description, outcome), neighbours in groupby(
        rows, lambda row: (row.kill_point.description, row.outcome_continue)
    ):
        group = list(neighbours)
        outcome_close = next((row.outcome_close for row in group if row.outcome_close is not None), "")
        moments = ", ".join(row.kill_point.moment for row in group if row.kill_point.moment != "here")
        kill_point = f"{description}: {moments}" if moments else description
        yield _range(group[0].number, group[-1].number), kill_point, outcome, outcome_close


def _double_kills_section(runs: ForkedRuns) -> str:
    rows = run_double_kills(runs)
    return "\n".join(
        [
            "## Killed twice",
            "",
            "walrusd is killed at the first kill point, and in the next run at each kill point until the turn has",
            "ended. A turn that is open at the second kill is not tried a third time. The second kill counts as the",
            "first one if a round was completed since, or if `turn_resumed` was not yet durable.",
            "",
            *_outcome_counts(
                {f"after {point.description}": list(_outcomes_after(rows, point)) for point in _first_points(rows)}
            ),
            "",
            *_markdown_table(["first kill", "second kill", "from", "to", "outcome"], _merge_double_kill_rows(rows)),
        ]
    )


def _first_points(rows: Sequence[DoubleKillRow]) -> list[KillPoint]:
    return list(dict.fromkeys(row.first_point for row in rows))


def _outcomes_after(rows: Sequence[DoubleKillRow], first_point: KillPoint) -> Iterable[str]:
    return (row.outcome for row in rows if row.first_point == first_point)


def _merge_double_kill_rows(rows: Sequence[DoubleKillRow]) -> Iterable[Sequence[str]]:
    for (first, outcome), neighbours in groupby(rows, lambda row: (row.first, row.outcome)):
        group = list(neighbours)
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
            "## Disk faults",
            "",
            "A full disk (ENOSPC) fails the first step of a write, a broken disk (EIO) fails its sync. It fails once,",
            "or at every such step until walrusd is killed and started again on a working disk. Meanwhile reads still",
            "work, and new requests are refused. `tests/store` covers every single step of a transaction.",
            "",
            *_outcome_counts({kind: [row.outcomes[kind] for row in rows] for kind in FAULT_KINDS}),
            "",
            *_markdown_table(
                ["number", "write", *FAULT_KINDS],
                (
                    [str(row.write), row.write_description, *(row.outcomes[kind] for kind in FAULT_KINDS)]
                    for row in rows
                ),
            ),
        ]
    )


SECTIONS: dict[str, Callable[[ForkedRuns], str]] = {
    "kills": _kills_section,
    "double kills": _double_kills_section,
    "disk faults": _disk_faults_section,
}


def _outcome_counts(columns: dict[str, list[str]]) -> list[str]:
    """Returns a table that counts the outcomes by the text before their first comma."""
    counted = {name: Counter(outcome.split(",")[0] for outcome in outcomes) for name, outcomes in columns.items()}
    kinds = sorted({kind for counts in counted.values() for kind in counts})
    rows = [[kind or "no trace", *(str(counts[kind]) for counts in counted.values())] for kind in kinds]
    return _markdown_table(
        ["outcome", *columns], [*rows, ["all", *(str(len(outcomes)) for outcomes in columns.values())]]
    )


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _kill_point_text(kill_point: KillPoint) -> str:
    return kill_point.description if kill_point.moment == "here" else f"{kill_point.description}: {kill_point.moment}"
