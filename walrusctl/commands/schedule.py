"""walrusctl schedule: what walrusd does by the clock, and what became of it."""

import sys
import time
from typing import NoReturn

import click

from walrus_protocol import wire
from walrus_protocol.client import Json
from walrusctl.click_base import LazyGroup, common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.formatting import format_cost, format_table, format_time, format_time_short
from walrusctl.output import print_answer, print_error, print_json, print_note, terminal_width
from walrusctl.pagination import fetch_pages

HERE = "walrusctl.commands.schedule"
_TIME_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_STOP_REASONS = frozenset({"max_iterations", "no_action", "interrupted", "budget_exceeded"})
"""Words for how a turn ended without an answer; a failed tick's reason begins with one, or with an error's kind."""
_HEARTBEAT_PREFIX = "heartbeat:"
_MAX_STORED_ANSWER = 500
"""Characters of an answer that the ledger keeps."""


@click.command(
    cls=LazyGroup,
    lazy={
        "list": f"{HERE}:list_",
        "run": f"{HERE}:run",
        "pause": f"{HERE}:pause",
        "resume": f"{HERE}:resume",
        "history": f"{HERE}:history",
    },
)
@common_options
def schedule() -> None:
    """What walrusd does by the clock.

    NAME is heartbeat:AGENT, or AGENT alone.
    """


@click.command("list")
@common_options
@pass_cli_context
def list_(ctx: CliContext) -> None:
    """List what is done by the clock, when next, and what became of it last."""
    answer = ctx.call("schedule.list")
    if ctx.json:
        print_json(answer)
        return
    now = time.time()
    rows = [
        (
            _short_name(one["name"]),
            _format_interval(one["every_s"]),
            _format_next(one, now),
            _format_state(one, now),
            _format_last(one["last"], now),
        )
        for one in answer["schedules"]
    ]
    print_answer(format_table(("NAME", "EVERY", "NEXT", "STATE", "LAST"), rows, terminal_width(sys.stdout)))


@click.command()
@click.argument("name")
@common_options
@pass_cli_context
def run(ctx: CliContext, name: str) -> None:
    """Tick now, whatever a pause, quiet hours or an open breaker say, and print the answer.

    The probe is asked all the same. Exit 0 where it ran or had no reason to; where it failed, as a turn that failed so.
    Ctrl-C only stops waiting.
    """
    try:
        tick = ctx.call("schedule.run", {"schedule": _resolve_name(ctx, name)}, timeout_s=None)
    except KeyboardInterrupt:
        print_note("not waiting any longer; the tick goes on")
        raise
    if ctx.json:
        print_json(tick)
    elif tick["text"]:
        print_answer(tick["text"])
    _exit_by_outcome(tick)


@click.command()
@click.argument("name")
@common_options
@pass_cli_context
def pause(ctx: CliContext, name: str) -> None:
    """Skip every tick of NAME until it is resumed."""
    _print_schedule(ctx, ctx.call("schedule.pause", {"schedule": _resolve_name(ctx, name)}))


@click.command()
@click.argument("name")
@common_options
@pass_cli_context
def resume(ctx: CliContext, name: str) -> None:
    """Go on with NAME: end its pause, and close its breaker."""
    _print_schedule(ctx, ctx.call("schedule.resume", {"schedule": _resolve_name(ctx, name)}))


@click.command()
@click.argument("name", required=False)
@click.option("--news", is_flag=True, help="Only what a person need read.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many rows.")
@click.option("--all", "everything", is_flag=True, help="As many as there are.")
@common_options
@pass_cli_context
def history(ctx: CliContext, name: str | None, limit: int, *, news: bool, everything: bool) -> None:
    """Print what became of each slot of NAME, or of all schedules, the newest first."""
    if name is not None:
        name = _resolve_name(ctx, name)
        # The ledger knows heartbeats that are configured no more, and they are on no list.
        name = name if ":" in name else _HEARTBEAT_PREFIX + name
    params = {"schedule": name, "news": news}
    ticks, cursor = fetch_pages(ctx, "schedule.history", "ticks", params, None if everything else limit)
    if ctx.json:
        print_json({"ticks": ticks, "cursor": cursor})
        return
    now = time.time()
    heads = ("TICK", "SLOT", "NAME", "OUTCOME", "SESSION", "COST", "TEXT")
    rows = [
        (
            tick["tick"],
            format_time_short(tick["slot"], now),
            _short_name(tick["schedule"]),
            _format_outcome(tick),
            *_format_run(tick["ran"]),
            _format_text(tick),
        )
        for tick in ticks
    ]
    print_answer(format_table(heads, rows, terminal_width(sys.stdout)))
    if cursor:
        print_note("there are more: raise --limit, or give --all")


def _resolve_name(ctx: CliContext, name: str) -> str:
    """The whole name for the part of it that says whose it is, where that is one."""
    if ":" in name:
        return name
    names = [one["name"] for one in ctx.call("schedule.list")["schedules"]]
    meant = [known for known in names if known.partition(":")[2] == name]
    if len(meant) > 1:
        raise click.UsageError(f"{name} may be {' or '.join(meant)}")
    return meant[0] if meant else name


def _print_schedule(ctx: CliContext, entry: Json) -> None:
    if ctx.json:
        print_json(entry)
    else:
        print_answer(
            f"{entry['name']} is paused"
            if entry["paused"]
            else f"{entry['name']} ticks at {format_time(entry['next_slot'])}"
        )


def _exit_by_outcome(tick: Json) -> NoReturn:
    """Say what there is beside the answer, and exit as a turn that ended so."""
    code, reason = wire.EXIT_OK, tick["reason"]
    if tick["outcome"] == "failed":
        print_error(reason)
        code = _exit_code(reason.partition(":")[0])
    elif reason:
        print_note(reason if tick["outcome"] == "ran" else f"{tick['outcome']}: {reason}")
    if tick["ran"] and len(tick["text"]) == _MAX_STORED_ANSWER:
        print_note(f"the whole answer: walrusctl session history {tick['ran']['session']}")
    raise click.exceptions.Exit(code)


def _exit_code(reason: str) -> int:
    if reason in _STOP_REASONS:
        return wire.exit_code_for_turn(reason, None)
    if reason in wire.KINDS:
        return wire.exit_code_for_error(wire.KINDS[reason], reason)
    return wire.EXIT_INTERNAL if reason == "probe" else wire.exit_code_for_turn("error", reason)


def _format_interval(seconds: float) -> str:
    """Of an interval, in the largest unit that needs no fraction."""
    size, unit = next(((size, unit) for size, unit in _TIME_UNITS if seconds % size == 0), (1, "s"))
    return f"{seconds / size:g} {unit}"


def _short_name(name: str) -> str:
    """Of a schedule, for a table: the name of its agent stands for its heartbeat."""
    return name.removeprefix(_HEARTBEAT_PREFIX)


def _format_next(entry: Json, now: float) -> str:
    """A slot that has passed could not be written down, or waits for its jitter."""
    slot = entry["next_slot"]
    if slot is None:
        return "-"
    return format_time_short(slot, now) if slot >= now else f"due since {format_time_short(slot, now)}"


def _format_state(entry: Json, now: float) -> str:
    if entry["running"]:
        return "running"
    if entry["paused"]:
        return "paused"
    return f"breaker open until {format_time_short(entry['closed_until'], now)}" if entry["closed_until"] else "waiting"


def _format_last(tick: Json | None, now: float) -> str:
    if tick is None:
        return "-"
    why = f": {tick['reason']}" if tick["reason"] else ""
    return f"{_format_outcome(tick)}, {format_time_short(tick['slot'], now)}{why}"


def _format_outcome(tick: Json) -> str:
    count = f" {tick['count']}" if tick["outcome"] == "missed" else ""
    return f"{tick['outcome']}{count}{' by hand' if tick['by'] == 'hand' else ''}"


def _format_run(ran: Json | None) -> tuple[str, str]:
    return ("-", "-") if ran is None else (str(ran["session"]), format_cost(ran["cost_usd"]))


def _format_text(tick: Json) -> str:
    return "; ".join(filter(None, (tick["reason"], tick["text"])))
