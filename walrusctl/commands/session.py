"""walrusctl session: conversations, from their making to their closing."""

import sys

import click

from walrus_protocol.client import Json, RequestFailed, Unreachable
from walrusctl.conversation import Shown
from walrusctl.groups import KEY, LINE, SESSION, LazyGroup, common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import note, say, say_json, width
from walrusctl.paging import paged
from walrusctl.render import failure, fields, message, money, table, when

HERE = "walrusctl.commands.session"
_FINISHING_S = 60
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
        "fork": "walrusctl.commands.branch:fork",
        "rewind": "walrusctl.commands.branch:rewind",
        "checkpoint": "walrusctl.commands.branch:checkpoint",
        "checkpoints": "walrusctl.commands.branch:checkpoints",
        "export": "walrusctl.commands.portable:export",
        "import": "walrusctl.commands.portable:import_",
        "resume": "walrusctl.commands.turn:resume",
        "wait": f"{HERE}:wait",
    },
)
@common_options
def session() -> None:
    """Conversations with agents."""


@click.command()
@click.argument("agent")
@click.option("--title", type=LINE, default="", help="What the session is about; for people.")
@click.option("--key", type=KEY, help="Create exactly once: a repeat gives the same session.")
@click.option("--created-by", type=LINE, default="cli", show_default=True, help="Who made it; for people.")
@common_options
@pass_invocation
def create(asked: Invocation, agent: str, title: str, key: str | None, created_by: str) -> None:
    """Make a session of AGENT and print its id alone."""
    params = {"agent": agent, "title": title, "created_by": created_by, "key": key}
    created = asked.call("session.create", params)
    if asked.json:
        say_json(created)
    else:
        say(str(created["session"]))


@click.command("list")
@click.option("--agent", help="Only those of this agent.")
@click.option("--state", help=f"Only those in this state: {', '.join(STATES)}.")
@click.option("--all", "include_closed", is_flag=True, help="Closed ones too.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common_options
@pass_invocation
def list_(asked: Invocation, agent: str | None, state: str | None, limit: int, *, include_closed: bool) -> None:
    """List sessions, the newest first."""
    params = {"agent": agent, "state": state, "include_closed": include_closed}
    found, cursor = paged(asked, "session.list", "sessions", params, limit)
    if asked.json:
        say_json({"sessions": found, "cursor": cursor})
        return
    rows = [(s["id"], s["agent"], _state(s), s["messages"], when(s["updated_at"]), s["title"]) for s in found]
    say(table(("ID", "AGENT", "STATE", "MESSAGES", "UPDATED", "TITLE"), rows, width(sys.stdout)))
    if not found:
        note("there is no such session" if agent or state else "there is no session")
    if cursor:
        note("there are more: raise --limit")


@click.command()
@click.argument("session", type=SESSION)
@common_options
@pass_invocation
def show(asked: Invocation, session: int) -> None:
    """Show one session: its state, its size, what it has cost."""
    one = asked.call("session.get", {"session": session})
    if asked.json:
        say_json(one)
        return
    usage, parent = one["usage"], one["parent"]
    state = {**one, "state": _state(one)}
    pairs = [(key, state[key]) for key in ("id", "agent", "title", "created_by", "state", "queued", "messages")]
    say(
        fields(
            [
                *pairs,
                ("forked from", parent and f"session {parent['session']} at seq {parent['seq']}"),
                ("created", when(one["created_at"])),
                ("updated", when(one["updated_at"])),
                ("last seq", one["last_seq"]),
                ("tokens", f"{usage['input']} in, {usage['output']} out, {money(one['cost_usd'])}"),
            ],
            width(sys.stdout),
        )
    )
    if one.get("error"):
        note(failure(one["error"]))


def _state(one: Json) -> str:
    """With what it failed with, where it has."""
    error = one.get("error")
    return f"{one['state']}: {error['kind']}" if error else str(one["state"])


@click.command()
@click.argument("session", type=SESSION)
@click.option("--limit", type=click.IntRange(1), help="At most so many messages, from the oldest. [all]")
@common_options
@pass_invocation
def history(asked: Invocation, session: int, limit: int | None) -> None:
    """Print the messages of SESSION as the model sees them."""
    messages, cursor = paged(asked, "session.history", "messages", {"session": session}, limit)
    if asked.json:
        say_json({"messages": messages, "cursor": cursor})
        return
    for body in messages:
        say(message(body))


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
@pass_invocation
def attach(asked: Invocation, session: int, since: int, *, follow: bool, deltas: bool, seqs: bool) -> None:
    """Show the log of SESSION, and then what happens in it.

    With --json every event is a line, and the result is the last one. Where it was cut off, stderr tells from which
    --since to go on.
    """
    # A text has its seq when it is said whole.
    deltas = deltas and (asked.json or not seqs)
    params = {"session": session, "since": since, "follow": follow, "deltas": deltas}
    shown = Shown(sys.stdout, everything=True, seqs=seqs)
    last = since
    try:
        with asked.client(None) as client, client.stream("session.attach", params) as events:
            for event in events:
                if asked.json:
                    say_json(event)
                    sys.stdout.flush()
                else:
                    shown(event)
                last = event.get("seq") or last
    except (KeyboardInterrupt, Unreachable, RequestFailed):
        shown.end()
        if last > since:
            note(f"`walrusctl session attach {session} --since {last}` goes on from here")
        raise
    finally:
        shown.end()
    if asked.json:
        say_json(events.result)


@click.command()
@click.argument("session", type=SESSION)
@common_options
@pass_invocation
def interrupt(asked: Invocation, session: int) -> None:
    """Stop the turn that runs in SESSION. Queued messages then run."""
    answer = asked.call("session.interrupt", {"session": session}, within=_FINISHING_S)
    if asked.json:
        say_json(answer)
    else:
        say(f"interrupted turn {answer['turn']}" if answer["interrupted"] else "no turn was running")


@click.command()
@click.argument("session", type=SESSION)
@click.option("--force", is_flag=True, help="Interrupt the running turn and drop the queued ones.")
@common_options
@pass_invocation
def close(asked: Invocation, session: int, *, force: bool) -> None:
    """Close SESSION for ever, once its turns are finished. It can still be read."""
    answer = asked.call("session.close", {"session": session, "force": force}, within=_FINISHING_S)
    if asked.json:
        say_json(answer)
    else:
        say("closed" if answer["closed"] else "was closed before")


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
@pass_invocation
def wait(asked: Invocation, session: int, state: str) -> None:
    """Wait until SESSION is in one of some states, and print which."""
    states = [name.strip() for name in state.split(",")]
    answer = asked.call("session.wait", {"session": session, "states": states}, within=None)
    if asked.json:
        say_json(answer)
    else:
        say(answer["state"])
