"""walrusctl session: conversations, from their making to their closing."""

import sys

import click

from walrus_protocol.client import Json, RequestFailed, Unreachable
from walrusctl.click_base import KEY, SESSION, SHORT_TEXT, LazyGroup, common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.event_printer import EventPrinter
from walrusctl.formatting import format_cost, format_error, format_fields, format_message, format_table, format_time
from walrusctl.output import print_answer, print_json, print_note, terminal_width
from walrusctl.pagination import fetch_pages

HERE = "walrusctl.commands.session"
_FINISH_TIMEOUT_S = 60
"""How long a turn may take until it has stopped and is written down."""
STATES = (
    "idle",
    "processing",
    "executing_tool",
    "waiting_for_subagent",
    "waiting_for_permission",
    "waiting_for_user_input",
    "error",
    "closed",
)


@click.command(
    cls=LazyGroup,
    lazy={
        "create": f"{HERE}:create",
        "list": f"{HERE}:list_",
        "show": f"{HERE}:show",
        "history": f"{HERE}:history",
        "search": "walrusctl.commands.search:search",
        "attach": f"{HERE}:attach",
        "interrupt": f"{HERE}:interrupt",
        "close": f"{HERE}:close",
        "fork": "walrusctl.commands.fork_rewind:fork",
        "rewind": "walrusctl.commands.fork_rewind:rewind",
        "checkpoint": "walrusctl.commands.fork_rewind:checkpoint",
        "checkpoints": "walrusctl.commands.fork_rewind:checkpoints",
        "export": "walrusctl.commands.export_import:export",
        "import": "walrusctl.commands.export_import:import_",
        "resume": "walrusctl.commands.send:resume",
        "wait": f"{HERE}:wait",
    },
)
@common_options
def session() -> None:
    """Conversations with agents."""


@click.command()
@click.argument("agent")
@click.option("--title", type=SHORT_TEXT, default="", help="What the session is about; for people.")
@click.option("--key", type=KEY, help="Create exactly once: a repeat gives the same session.")
@click.option("--created-by", type=SHORT_TEXT, default="cli", show_default=True, help="Who made it; for people.")
@common_options
@pass_cli_context
def create(ctx: CliContext, agent: str, title: str, key: str | None, created_by: str) -> None:
    """Make a session of AGENT and print its id alone."""
    params = {"agent": agent, "title": title, "created_by": created_by, "key": key}
    created = ctx.call("session.create", params)
    if ctx.json:
        print_json(created)
    else:
        print_answer(str(created["session"]))


@click.command("list")
@click.option("--agent", help="Only those of this agent.")
@click.option("--state", help=f"Only those in this state: {', '.join(STATES)}.")
@click.option("--all", "include_closed", is_flag=True, help="Closed ones too.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common_options
@pass_cli_context
def list_(ctx: CliContext, agent: str | None, state: str | None, limit: int, *, include_closed: bool) -> None:
    """List sessions, the newest first."""
    params = {"agent": agent, "state": state, "include_closed": include_closed}
    found, cursor = fetch_pages(ctx, "session.list", "sessions", params, limit)
    if ctx.json:
        print_json({"sessions": found, "cursor": cursor})
        return
    rows = [
        (s["id"], s["agent"], _format_state(s), s["messages"], format_time(s["updated_at"]), s["title"]) for s in found
    ]
    print_answer(
        format_table(("ID", "AGENT", "STATE", "MESSAGES", "UPDATED", "TITLE"), rows, terminal_width(sys.stdout))
    )
    if not found:
        print_note("there is no such session" if agent or state else "there is no session")
    if cursor:
        print_note("there are more: raise --limit")


@click.command()
@click.argument("session", type=SESSION)
@common_options
@pass_cli_context
def show(ctx: CliContext, session: int) -> None:
    """Show one session: its state, its size, what it has cost."""
    one = ctx.call("session.get", {"session": session})
    if ctx.json:
        print_json(one)
        return
    usage, parent = one["usage"], one["parent"]
    state = {**one, "state": _format_state(one)}
    pairs = [(key, state[key]) for key in ("id", "agent", "title", "created_by", "state", "queued", "messages")]
    print_answer(
        format_fields(
            [
                *pairs,
                ("forked from", parent and f"session {parent['session']} at seq {parent['seq']}"),
                ("created", format_time(one["created_at"])),
                ("updated", format_time(one["updated_at"])),
                ("last seq", one["last_seq"]),
                ("tokens", f"{usage['input']} in, {usage['output']} out, {format_cost(one['cost_usd'])}"),
            ],
            terminal_width(sys.stdout),
        )
    )
    if one.get("error"):
        print_note(format_error(one["error"]))


def _format_state(info: Json) -> str:
    """With what it failed with, where it has."""
    error = info.get("error")
    return f"{info['state']}: {error['kind']}" if error else str(info["state"])


@click.command()
@click.argument("session", type=SESSION)
@click.option("--limit", type=click.IntRange(1), help="At most so many messages, from the oldest. [all]")
@common_options
@pass_cli_context
def history(ctx: CliContext, session: int, limit: int | None) -> None:
    """Print the messages of SESSION as the model sees them."""
    messages, cursor = fetch_pages(ctx, "session.history", "messages", {"session": session}, limit)
    if ctx.json:
        print_json({"messages": messages, "cursor": cursor})
        return
    for body in messages:
        print_answer(format_message(body))


@click.command()
@click.argument("session", type=SESSION)
@click.option(
    "--since",
    metavar="SEQ",
    type=click.IntRange(0, 2**53 - 1),
    default=0,
    help="Only what came after this seq; --seq shows them. [0: all]",
)
@click.option("--follow/--no-follow", default=True, help="Go on with what comes, until Ctrl-C or its end. [follow]")
@click.option("--deltas/--no-deltas", default=True, help="Text as it comes, too. [deltas; not with --seq]")
@click.option("--seq", "seqs", is_flag=True, help="The seq of each event before it, for fork, rewind and --since.")
@common_options
@pass_cli_context
def attach(ctx: CliContext, session: int, since: int, *, follow: bool, deltas: bool, seqs: bool) -> None:
    """Show the log of SESSION, and then what happens in it.

    With --json every event is a line, and the result is the last one. Where it was cut off, stderr tells from which
    --since to go on.
    """
    # A text has its seq when it is said whole.
    deltas = deltas and (ctx.json or not seqs)
    params = {"session": session, "since": since, "follow": follow, "deltas": deltas}
    shown = EventPrinter(sys.stdout, whole_session=True, show_seqs=seqs)
    last = since
    try:
        with ctx.connect(None) as client, client.stream("session.attach", params) as events:
            for event in events:
                if ctx.json:
                    print_json(event)
                    sys.stdout.flush()
                else:
                    shown(event)
                last = event.get("seq") or last
    except (KeyboardInterrupt, Unreachable, RequestFailed):
        shown.finish()
        if last > since:
            print_note(f"`walrusctl session attach {session} --since {last}` goes on from here")
        raise
    finally:
        shown.finish()
    if ctx.json:
        print_json(events.result)


@click.command()
@click.argument("session", type=SESSION)
@common_options
@pass_cli_context
def interrupt(ctx: CliContext, session: int) -> None:
    """Stop the turn that runs in SESSION. Queued messages then run."""
    answer = ctx.call("session.interrupt", {"session": session}, timeout_s=_FINISH_TIMEOUT_S)
    if ctx.json:
        print_json(answer)
    else:
        print_answer(f"interrupted turn {answer['turn']}" if answer["interrupted"] else "no turn was running")


@click.command()
@click.argument("session", type=SESSION)
@click.option("--force", is_flag=True, help="Interrupt the running turn and drop the queued ones.")
@common_options
@pass_cli_context
def close(ctx: CliContext, session: int, *, force: bool) -> None:
    """Close SESSION for ever, once its turns are finished. It can still be read."""
    answer = ctx.call("session.close", {"session": session, "force": force}, timeout_s=_FINISH_TIMEOUT_S)
    if ctx.json:
        print_json(answer)
    else:
        print_answer("closed" if answer["closed"] else "was closed before")


@click.command()
@click.argument("session", type=SESSION)
@click.option(
    "--state",
    default="idle,error,closed",
    show_default=True,
    metavar="STATE[,STATE…]",
    help=f"The states that end the wait, of {', '.join(STATES)}.",
)
@common_options
@pass_cli_context
def wait(ctx: CliContext, session: int, state: str) -> None:
    """Wait until SESSION is in one of some states, and print which."""
    states = [name.strip() for name in state.split(",")]
    answer = ctx.call("session.wait", {"session": session, "states": states}, timeout_s=None)
    if ctx.json:
        print_json(answer)
    else:
        print_answer(answer["state"])
