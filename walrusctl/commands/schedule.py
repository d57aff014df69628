"""The commands `walrusctl schedule`: list, run, pause and resume schedules, and show their history."""

import sys
import time
from typing import NoReturn, get_args

import click

from walrus_protocol import wire
from walrus_protocol.client import Json
from walrus_protocol.vocabulary import StopReason
from walrusctl.click_base import LIMIT, command, group, lazy_commands
from walrusctl.context import CliContext
from walrusctl.formatting import format_cost, format_table, format_time, format_time_short
from walrusctl.output import print_answer, print_error, print_json, print_note, terminal_width
from walrusctl.pagination import fetch_pages

_TIME_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_HEARTBEAT_PREFIX = "heartbeat:"
_MAX_STORED_ANSWER = 500
"""Maximum characters of an answer that the ledger stores."""


@group(
    "walrusctl schedule list",
    "walrusctl schedule run walrus",
    lazy=lazy_commands("schedule:list_", "schedule:run", "schedule:pause", "schedule:resume", "schedule:history"),
)
def schedule() -> None:
    """List, run, pause and resume heartbeats.

    The NAME of a heartbeat is heartbeat:AGENT, or AGENT alone.
    """


@command("walrusctl schedule list")
def list_(ctx: CliContext) -> None:
    """List schedules with their next and last tick."""
    answer = ctx.call("schedule.list")
    now = time.time()
    rows = [
        (
            _short_name(entry["name"]),
            _format_interval(entry["every_s"]),
            _format_next(entry, now),
            _format_state(entry, now),
            _format_last(entry["last"], now),
        )
        for entry in answer["schedules"]
    ]
    headers = ("NAME", "EVERY", "NEXT", "STATE", "LAST")
    ctx.print_result(answer, format_table(headers, rows, terminal_width(sys.stdout)))


@command("walrusctl schedule run walrus")
@click.argument("name")
def run(ctx: CliContext, name: str) -> None:
    """Run a tick of NAME now, and print the answer.

    It ignores a pause, quiet hours and an open breaker, but still runs the probe. Exit 0 if the tick ran or had no
    reason to run; a failed tick exits like a turn that failed in the same way. Ctrl-C only stops waiting.
    """
    try:
        tick = ctx.call("schedule.run", {"schedule": _resolve_name(ctx, name)}, timeout_s=None)
    except KeyboardInterrupt:
        print_note("no longer waiting; the tick continues")
        raise
    if ctx.json:
        print_json(tick)
    elif tick["text"]:
        print_answer(tick["text"])
    _exit_by_outcome(tick)


@command("walrusctl schedule pause walrus")
@click.argument("name")
def pause(ctx: CliContext, name: str) -> None:
    """Skip every tick of NAME until it is resumed."""
    _print_schedule(ctx, ctx.call("schedule.pause", {"schedule": _resolve_name(ctx, name)}))


@command("walrusctl schedule resume walrus")
@click.argument("name")
def resume(ctx: CliContext, name: str) -> None:
    """End the pause of NAME, and close its breaker."""
    _print_schedule(ctx, ctx.call("schedule.resume", {"schedule": _resolve_name(ctx, name)}))


@command("walrusctl schedule history", "walrusctl schedule history walrus --news")
@click.argument("name", required=False)
@click.option("--news", is_flag=True, help="Only ticks that a person should read.")
@click.option("--limit", type=LIMIT, metavar="N", default=50, show_default=True, help="At most N rows.")
@click.option("--all", "everything", is_flag=True, help="All rows.")
def history(ctx: CliContext, name: str | None, limit: int, *, news: bool, everything: bool) -> None:
    """Print past ticks, the newest first.

    Without NAME, the ticks of all schedules.
    """
    if name is not None:
        name = _resolve_name(ctx, name)
        # The ledger also has heartbeats that are no longer configured; schedule.list does not return them.
        name = name if ":" in name else _HEARTBEAT_PREFIX + name
    params = {"schedule": name, "news": news}
    ticks, cursor = fetch_pages(ctx, "schedule.history", "ticks", params, None if everything else limit)
    now = time.time()
    headers = ("TICK", "SLOT", "NAME", "OUTCOME", "SESSION", "COST", "TEXT")
    rows = [
        (
            tick["tick"],
            format_time_short(tick["slot"], now),
            _short_name(tick["schedule"]),
            _format_outcome(tick),
            *_format_run(tick["ran"]),
            "; ".join(filter(None, (tick["reason"], tick["text"]))),
        )
        for tick in ticks
    ]
    ctx.print_result(
        {"ticks": ticks, "cursor": cursor},
        format_table(headers, rows, terminal_width(sys.stdout)),
        "there are more: raise --limit, or use --all" if cursor else "",
    )


def _resolve_name(ctx: CliContext, name: str) -> str:
    """Returns the full name of a schedule for an agent's name; returns `name` itself if none matches."""
    if ":" in name:
        return name
    names = [entry["name"] for entry in ctx.call("schedule.list")["schedules"]]
    matches = [known for known in names if known.partition(":")[2] == name]
    if len(matches) > 1:
        raise click.UsageError(f"{name} is ambiguous: it may be {' or '.join(matches)}")
    return matches[0] if matches else name


def _print_schedule(ctx: CliContext, entry: Json) -> None:
    state = "is paused" if entry["paused"] else f"ticks next at {format_time(entry['next_slot'])}"
    ctx.print_result(entry, f"{entry['name']} {state}")


def _exit_by_outcome(tick: Json) -> NoReturn:
    """Prints the reason of a tick, and exits like a turn with the same outcome."""
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
    """Returns the exit code of a failed tick: its reason begins with a stop reason or with a kind of error."""
    if reason in get_args(StopReason):
        return wire.exit_code_for_turn(reason, None)
    if reason in wire.KINDS:
        return wire.exit_code_for_error(wire.KINDS[reason], reason)
    return wire.EXIT_INTERNAL if reason == "probe" else wire.exit_code_for_turn("error", reason)


def _format_interval(seconds: float) -> str:
    """Formats an interval in the largest unit that needs no fraction."""
    size, unit = next(((size, unit) for size, unit in _TIME_UNITS if seconds % size == 0), (1, "s"))
    return f"{seconds / size:g} {unit}"


def _short_name(name: str) -> str:
    """Returns the name for a table: a heartbeat is shown as the name of its agent."""
    return name.removeprefix(_HEARTBEAT_PREFIX)


def _format_next(entry: Json, now: float) -> str:
    """Formats the next slot; one that has passed waits for its jitter or could not be written."""
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
    reason = f": {tick['reason']}" if tick["reason"] else ""
    return f"{_format_outcome(tick)}, {format_time_short(tick['slot'], now)}{reason}"


def _format_outcome(tick: Json) -> str:
    count = f" {tick['count']}" if tick["outcome"] == "missed" else ""
    return f"{tick['outcome']}{count}{' by hand' if tick['by'] == 'hand' else ''}"


def _format_run(ran: Json | None) -> tuple[str, str]:
    return ("-", "-") if ran is None else (str(ran["session"]), format_cost(ran["cost_usd"]))
