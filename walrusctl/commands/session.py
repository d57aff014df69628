"""The commands `walrusctl session`: create, list, show, attach to, interrupt and close sessions."""

import sys
from typing import get_args

import click

from walrus_protocol.client import Json, RequestFailed, Unreachable
from walrus_protocol.vocabulary import State
from walrusctl.click_base import KEY, LIMIT, OFFSET, SESSION, SHORT_TEXT, command, group, lazy_commands
from walrusctl.context import CliContext
from walrusctl.event_printer import EventPrinter
from walrusctl.formatting import format_cost, format_error, format_fields, format_message, format_table, format_time
from walrusctl.output import print_answer, print_json, print_note, terminal_width
from walrusctl.pagination import fetch_pages

_FINISH_TIMEOUT_S = 60
"""Seconds to wait until a turn has stopped and is logged."""
_STATES = ", ".join(get_args(State))


@group(
    "walrusctl session create walrus",
    "walrusctl session attach 3",
    lazy=lazy_commands(
        "session:create",
        "session:list_",
        "session:show",
        "session:history",
        "search:search",
        "session:attach",
        "session:interrupt",
        "session:close",
        "fork_rewind:fork",
        "fork_rewind:rewind",
        "fork_rewind:checkpoint",
        "fork_rewind:checkpoints",
        "export_import:export",
        "export_import:import_",
        "send:resume",
        "session:wait",
    ),
)
def session() -> None:
    """Create, list, read and change sessions."""


@command('walrusctl session create walrus --title "Shopping list"')
@click.argument("agent")
@click.option("--title", type=SHORT_TEXT, metavar="TEXT", default="", help="A title for people to read.")
@click.option("--key", type=KEY, metavar="KEY", help="Create exactly once: a repeat prints the same session.")
@click.option(
    "--created-by", type=SHORT_TEXT, metavar="NAME", default="cli", show_default=True, help="The creator's name."
)
def create(ctx: CliContext, agent: str, title: str, key: str | None, created_by: str) -> None:
    """Create a session of AGENT and print its id."""
    params = {"agent": agent, "title": title, "created_by": created_by, "key": key}
    created = ctx.call("session.create", params)
    ctx.print_result(created, str(created["session"]))


@command("walrusctl session list", "walrusctl session list --agent walrus --all")
@click.option("--agent", metavar="AGENT", help="Only sessions of this agent.")
@click.option("--state", metavar="STATE", help=f"Only sessions in this state: {_STATES}.")
@click.option("--all", "include_closed", is_flag=True, help="Closed sessions too.")
@click.option("--limit", type=LIMIT, metavar="N", default=50, show_default=True, help="At most N sessions.")
def list_(ctx: CliContext, agent: str | None, state: str | None, limit: int, *, include_closed: bool) -> None:
    """List sessions, the newest first."""
    params = {"agent": agent, "state": state, "include_closed": include_closed}
    found, cursor = fetch_pages(ctx, "session.list", "sessions", params, limit)
    rows = [
        (s["id"], s["agent"], _format_state(s), s["messages"], format_time(s["updated_at"]), s["title"]) for s in found
    ]
    ctx.print_result(
        {"sessions": found, "cursor": cursor},
        format_table(("ID", "AGENT", "STATE", "MESSAGES", "UPDATED", "TITLE"), rows, terminal_width(sys.stdout)),
        "" if found else "no matching sessions" if agent or state else "no sessions",
        "there are more: raise --limit" if cursor else "",
    )


@command("walrusctl session show 3")
@click.argument("session", type=SESSION)
def show(ctx: CliContext, session: int) -> None:
    """Show the state, size and cost of SESSION."""
    info = ctx.call("session.get", {"session": session})
    usage, parent = info["usage"], info["parent"]
    fields = {**info, "state": _format_state(info)}
    pairs = [(key, fields[key]) for key in ("id", "agent", "title", "created_by", "state", "queued", "messages")]
    pairs += [
        ("forked from", parent and f"session {parent['session']} at seq {parent['seq']}"),
        ("created", format_time(info["created_at"])),
        ("updated", format_time(info["updated_at"])),
        ("last seq", info["last_seq"]),
        ("tokens", f"{usage['input']} in, {usage['output']} out, {format_cost(info['cost_usd'])}"),
    ]
    error = info.get("error")
    ctx.print_result(info, format_fields(pairs, terminal_width(sys.stdout)), format_error(error) if error else "")


def _format_state(info: Json) -> str:
    """Returns the session's state, with the kind of its error if it has one."""
    error = info.get("error")
    return f"{info['state']}: {error['kind']}" if error else str(info["state"])


@command("walrusctl session history 3")
@click.argument("session", type=SESSION)
@click.option("--limit", type=LIMIT, metavar="N", help="At most N messages, from the oldest. [all]")
def history(ctx: CliContext, session: int, limit: int | None) -> None:
    """Print the messages of SESSION as the model sees them."""
    messages, cursor = fetch_pages(ctx, "session.history", "messages", {"session": session}, limit)
    if ctx.json:
        print_json({"messages": messages, "cursor": cursor})
        return
    for body in messages:
        print_answer(format_message(body))


@command("walrusctl session attach 3", "walrusctl session attach 3 --no-follow --seq")
@click.argument("session", type=SESSION)
@click.option("--since", metavar="SEQ", type=OFFSET, default=0, help="Only events after this seq (see --seq). [0: all]")
@click.option(
    "--follow/--no-follow", default=True, help="Wait for new events until Ctrl-C or the session's end. [follow]"
)
@click.option("--deltas/--no-deltas", default=True, help="Print partial text too. [deltas; not with --seq]")
@click.option("--seq", "seqs", is_flag=True, help="Print each event's seq, for fork, rewind and --since.")
def attach(ctx: CliContext, session: int, since: int, *, follow: bool, deltas: bool, seqs: bool) -> None:
    """Print the events of SESSION, and follow new ones.

    With --json each event is one line, and the last line is the result. If it is cut off, stderr shows the --since that
    continues from there.
    """
    # Only a complete message has a seq.
    deltas = deltas and (ctx.json or not seqs)
    params = {"session": session, "since": since, "follow": follow, "deltas": deltas}
    printer = EventPrinter(sys.stdout, whole_session=True, show_seqs=seqs)
    last = since
    try:
        with ctx.connect(None) as client, client.stream("session.attach", params) as events:
            for event in events:
                if ctx.json:
                    print_json(event)
                    sys.stdout.flush()
                else:
                    printer(event)
                last = event.get("seq") or last
    except (KeyboardInterrupt, Unreachable, RequestFailed):
        printer.finish()
        if last > since:
            print_note(f"`walrusctl session attach {session} --since {last}` continues from here")
        raise
    finally:
        printer.finish()
    if ctx.json:
        print_json(events.result)


@command("walrusctl session interrupt 3")
@click.argument("session", type=SESSION)
def interrupt(ctx: CliContext, session: int) -> None:
    """Stop the running turn of SESSION.

    Queued messages run afterwards.
    """
    answer = ctx.call("session.interrupt", {"session": session}, timeout_s=_FINISH_TIMEOUT_S)
    ctx.print_result(answer, f"interrupted turn {answer['turn']}" if answer["interrupted"] else "no turn was running")


@command("walrusctl session close 3")
@click.argument("session", type=SESSION)
@click.option("--force", is_flag=True, help="Interrupt the running turn and drop queued messages.")
def close(ctx: CliContext, session: int, *, force: bool) -> None:
    """Close SESSION permanently; it can still be read.

    Without --force it waits until the turns are finished.
    """
    answer = ctx.call("session.close", {"session": session, "force": force}, timeout_s=_FINISH_TIMEOUT_S)
    ctx.print_result(answer, "closed" if answer["closed"] else "was already closed")


@command("walrusctl session wait 3")
@click.argument("session", type=SESSION)
@click.option(
    "--state",
    default="idle,error,closed",
    show_default=True,
    metavar="STATE[,STATE…]",
    help=f"The states that end the wait, of {_STATES}.",
)
def wait(ctx: CliContext, session: int, state: str) -> None:
    """Wait until SESSION reaches a state; print the state."""
    states = [name.strip() for name in state.split(",")]
    answer = ctx.call("session.wait", {"session": session, "states": states}, timeout_s=None)
    ctx.print_result(answer, answer["state"])
