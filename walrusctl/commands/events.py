"""The command `walrusctl events`: prints the events of all sessions and of walrusd itself."""

import sys
from collections.abc import Callable
from typing import get_args

import click

from walrus_protocol.client import Json, RequestFailed, Unreachable
from walrus_protocol.vocabulary import EventType
from walrusctl.click_base import OFFSET, SESSION, command
from walrusctl.context import CliContext
from walrusctl.formatting import format_content, format_event, format_time, to_short_line
from walrusctl.output import print_answer, print_json, print_note

_EVENT_FORMATTERS: dict[str, Callable[[Json], str]] = {
    "user_message": lambda event: f"{event['sender'] or 'user'}: {format_content(event['content'])}",
    "assistant_message": lambda event: f"assistant: {format_content(event['content'])}" if event["content"] else "",
    "tick": lambda event: f"{event['schedule']} {event['outcome']}: {event['reason'] or event['text']}".rstrip(": "),
    "config_reloaded": lambda event: f"reloaded: {', '.join(event['changed']) or 'no changes'}",
    "sessions_expired": lambda event: f"deleted ({event['reason']}): {', '.join(map(str, event['sessions']))}",
    "session_imported": lambda event: f"session {event['imported']} of agent {event['agent']} imported",
    "state_changed": lambda _: "",
    "tool_output": lambda _: "",
}
"""Formatters of the event types that this command shows unlike a conversation, or not at all."""


@command("walrusctl events --session 3", "walrusctl events --since 0 --no-follow --type done --json")
@click.option(
    "--since",
    type=OFFSET,
    metavar="OFFSET",
    help="Begin after this offset; 0 begins with the oldest event. [now; 0 with --no-follow]",
)
@click.option("--follow/--no-follow", default=True, help="Wait for new events until Ctrl-C. [follow]")
@click.option(
    "--session",
    "sessions",
    type=SESSION,
    metavar="SESSION",
    multiple=True,
    help="Only events of this session; may be repeated.",
)
@click.option(
    "--agent", "agents", metavar="AGENT", multiple=True, help="Only events of this agent's sessions; may be repeated."
)
@click.option(
    "--type", "types", metavar="TYPE", multiple=True, help="Only events of this type (see below); may be repeated."
)
@click.option("--deltas/--no-deltas", default=True, help="With --json, print partial text too. [deltas]")
def events(
    ctx: CliContext,
    *,
    since: int | None,
    follow: bool,
    sessions: tuple[int, ...],
    agents: tuple[str, ...],
    types: tuple[str, ...],
    deltas: bool,
) -> None:
    """Print the events of all sessions and of walrusd.

    With --json each event is one line, and the last line is the result. When it stops, stderr shows the --since that
    continues from there, even after a restart of walrusd.
    """
    params: Json = {
        "since": since if follow else since or 0,
        "follow": follow,
        "sessions": list(sessions) or None,
        "agents": list(agents) or None,
        "types": list(types) or None,
        "deltas": deltas and ctx.json,
    }
    last = since
    try:
        with ctx.connect(None) as client, client.stream("event.subscribe", params) as stream:
            for event in stream:
                _print_event(event, as_json=ctx.json, is_selected=event["type"] in types)
                last = event.get("offset", last)
    except (KeyboardInterrupt, Unreachable, RequestFailed) as error:
        if last is not None and (last != since or not isinstance(error, RequestFailed)):
            print_note(f"`walrusctl events --since {last}` continues from here")
        raise
    if ctx.json:
        print_json(stream.result)


events.epilog = f"Types: {', '.join(get_args(EventType))}.\n\n{events.epilog}"


def _print_event(event: Json, *, as_json: bool, is_selected: bool) -> None:
    """Prints an event; one whose type was selected has a line in any case."""
    kind = event["type"]
    if as_json:
        print_json(event)
    elif line := _EVENT_FORMATTERS.get(kind, format_event)(event) or (f"({kind})" if is_selected else ""):
        print_answer(f"{format_time(event['ts'])} [{event['session'] or 'walrusd'}] {to_short_line(line)}")
    sys.stdout.flush()
