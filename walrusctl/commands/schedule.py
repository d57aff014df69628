"""walrusctl schedule: what walrusd does by the clock, and what became of it."""

import sys
import time
from typing import NoReturn

import click

from walrus_protocol import wire
from walrus_protocol.client import Json
from walrusctl.groups import LazyGroup, common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import complain, note, say, say_json, width
from walrusctl.paging import paged
from walrusctl.render import brief, money, table, when

HERE = "walrusctl.commands.schedule"
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_STOPS = frozenset({"max_iterations", "no_action", "interrupted", "budget_exceeded"})
"""Words for how a turn ended without an answer; a failed tick's reason begins with one, or with an error's kind."""
_HEARTBEAT = "heartbeat:"
_CUT = 500
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
@pass_invocation
def list_(asked: Invocation) -> None:
    """List what is done by the clock, when next, and what became of it last."""
    answer = asked.call("schedule.list")
    if asked.json:
        say_json(answer)
        return
    now = time.time()
    rows = [
        (_short(one["name"]), _length(one["every_s"]), _next(one, now), _state(one, now), _last(one["last"], now))
        for one in answer["schedules"]
    ]
    say(table(("NAME", "EVERY", "NEXT", "STATE", "LAST"), rows, width(sys.stdout)))


@click.command()
@click.argument("name")
@common_options
@pass_invocation
def run(asked: Invocation, name: str) -> None:
    """Tick now, whatever a pause, quiet hours or an open breaker say, and print the answer.

    The probe is asked all the same. Exit 0 where it ran or had no reason to; where it failed, as a turn that failed so.
    Ctrl-C only stops waiting.
    """
    try:
        tick = asked.call("schedule.run", {"schedule": _named(asked, name)}, within=None)
    except KeyboardInterrupt:
        note("not waiting any longer; the tick goes on")
        raise
    if asked.json:
        say_json(tick)
    elif tick["text"]:
        say(tick["text"])
    _leave(tick)


@click.command()
@click.argument("name")
@common_options
@pass_invocation
def pause(asked: Invocation, name: str) -> None:
    """Skip every tick of NAME until it is resumed."""
    _told(asked, asked.call("schedule.pause", {"schedule": _named(asked, name)}))


@click.command()
@click.argument("name")
@common_options
@pass_invocation
def resume(asked: Invocation, name: str) -> None:
    """Go on with NAME: end its pause, and close its breaker."""
    _told(asked, asked.call("schedule.resume", {"schedule": _named(asked, name)}))


@click.command()
@click.argument("name", required=False)
@click.option("--news", is_flag=True, help="Only what a person need read.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many rows.")
@click.option("--all", "everything", is_flag=True, help="As many as there are.")
@common_options
@pass_invocation
def history(asked: Invocation, name: str | None, limit: int, *, news: bool, everything: bool) -> None:
    """Print what became of each slot of NAME, or of all schedules, the newest first."""
    if name is not None:
        name = _named(asked, name)
        # The ledger knows heartbeats that are configured no more, and they are on no list.
        name = name if ":" in name else _HEARTBEAT + name
    params = {"schedule": name, "news": news}
    ticks, cursor = paged(asked, "schedule.history", "ticks", params, None if everything else limit)
    if asked.json:
        say_json({"ticks": ticks, "cursor": cursor})
        return
    now = time.time()
    heads = ("TICK", "SLOT", "NAME", "OUTCOME", "SESSION", "COST", "TEXT")
    rows = [
        (
            tick["tick"],
            brief(tick["slot"], now),
            _short(tick["schedule"]),
            _outcome(tick),
            *_ran(tick["ran"]),
            _text(tick),
        )
        for tick in ticks
    ]
    say(table(heads, rows, width(sys.stdout)))
    if cursor:
        note("there are more: raise --limit, or give --all")


def _named(asked: Invocation, name: str) -> str:
    """The whole name for the part of it that says whose it is, where that is one."""
    if ":" in name:
        return name
    names = [one["name"] for one in asked.call("schedule.list")["schedules"]]
    meant = [known for known in names if known.partition(":")[2] == name]
    if len(meant) > 1:
        raise click.UsageError(f"{name} may be {' or '.join(meant)}")
    return meant[0] if meant else name


def _told(asked: Invocation, one: Json) -> None:
    if asked.json:
        say_json(one)
    else:
        say(f"{one['name']} is paused" if one["paused"] else f"{one['name']} ticks at {when(one['next_slot'])}")


def _leave(tick: Json) -> NoReturn:
    """Say what there is beside the answer, and exit as a turn that ended so."""
    code, reason = wire.EXIT_OK, tick["reason"]
    if tick["outcome"] == "failed":
        complain(reason)
        code = _exit_of(reason.partition(":")[0])
    elif reason:
        note(reason if tick["outcome"] == "ran" else f"{tick['outcome']}: {reason}")
    if tick["ran"] and len(tick["text"]) == _CUT:
        note(f"the whole answer: walrusctl session history {tick['ran']['session']}")
    raise click.exceptions.Exit(code)


def _exit_of(word: str) -> int:
    if word in _STOPS:
        return wire.exit_of_turn(word, None)
    if word in wire.KINDS:
        return wire.exit_of_error(wire.KINDS[word], word)
    return wire.EXIT_INTERNAL if word == "probe" else wire.exit_of_turn("error", word)


def _length(seconds: float) -> str:
    """Of an interval, in the largest unit that needs no fraction."""
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds % size == 0), (1, "s"))
    return f"{seconds / size:g} {unit}"


def _short(name: str) -> str:
    """Of a schedule, for a table: the name of its agent stands for its heartbeat."""
    return name.removeprefix(_HEARTBEAT)


def _next(one: Json, now: float) -> str:
    """A slot that has passed could not be written down, or waits for its jitter."""
    slot = one["next_slot"]
    if slot is None:
        return "-"
    return brief(slot, now) if slot >= now else f"due since {brief(slot, now)}"


def _state(one: Json, now: float) -> str:
    if one["running"]:
        return "running"
    if one["paused"]:
        return "paused"
    return f"breaker open until {brief(one['closed_until'], now)}" if one["closed_until"] else "waiting"


def _last(tick: Json | None, now: float) -> str:
    if tick is None:
        return "-"
    why = f": {tick['reason']}" if tick["reason"] else ""
    return f"{_outcome(tick)}, {brief(tick['slot'], now)}{why}"


def _outcome(tick: Json) -> str:
    count = f" {tick['count']}" if tick["outcome"] == "missed" else ""
    return f"{tick['outcome']}{count}{' by hand' if tick['by'] == 'hand' else ''}"


def _ran(ran: Json | None) -> tuple[str, str]:
    return ("-", "-") if ran is None else (str(ran["session"]), money(ran["cost_usd"]))


def _text(tick: Json) -> str:
    return "; ".join(filter(None, (tick["reason"], tick["text"])))
