"""The commands `walrusctl session fork`, `rewind`, `checkpoint` and `checkpoints`."""

import click

from walrus_protocol import wire
from walrus_protocol.client import RequestFailed
from walrusctl.click_base import KEY, SESSION, command
from walrusctl.context import CliContext
from walrusctl.formatting import format_table, format_time
from walrusctl.pagination import fetch_pages

_MAX_SEQ_DIGITS = 16
"""Maximum digits of a seq: 2^53 has as many. A longer number is the name of a checkpoint."""
_SEQ_TYPE: click.ParamType[int] = click.IntRange(1, 2**53 - 1)


class Point(click.ParamType[int | str]):
    """A seq, or the name of a checkpoint."""

    name = "seq or name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        is_seq = value.isascii() and value.isdigit() and len(value) <= _MAX_SEQ_DIGITS
        return _SEQ_TYPE.convert(value, param, ctx) if is_seq else value


POINT = Point()


@command("walrusctl session fork 3", "walrusctl session fork 3 --at 12")
@click.argument("session", type=SESSION)
@click.option("--at", type=POINT, metavar="SEQ|NAME", help="Fork at this seq or checkpoint. [the end]")
def fork(ctx: CliContext, session: int, at: int | str | None) -> None:
    """Create a session from a point of SESSION; print its id.

    `session attach SESSION --seq` shows the seqs, `session checkpoints` the names. SESSION itself does not change; it
    may be running or closed.
    """
    wanted = None if at is None else _resolve_seq(ctx, session, at)
    forked = ctx.call("session.fork", {"session": session, "at": wanted})
    ctx.print_result(forked, str(forked["session"]), _rounding_note(wanted, forked["at"]))


@command("walrusctl session rewind 3 12", "walrusctl session rewind 3 before-the-tests")
@click.argument("session", type=SESSION)
@click.argument("to", type=POINT, metavar="SEQ|NAME")
def rewind(ctx: CliContext, session: int, to: int | str) -> None:
    """Continue SESSION from an earlier seq or checkpoint.

    `session attach SESSION --seq` shows the seqs, `session checkpoints` the names. Nothing is deleted: a rewind to a
    point before this rewind restores everything.
    """
    wanted = _resolve_seq(ctx, session, to)
    answer = ctx.call("session.rewind", {"session": session, "to": wanted})
    ctx.print_result(answer, f"rewound to seq {answer['to']}", _rounding_note(wanted, answer["to"]))


@command("walrusctl session checkpoint 3 before-the-tests")
@click.argument("session", type=SESSION)
@click.argument("name", type=KEY)
def checkpoint(ctx: CliContext, session: int, name: str) -> None:
    """Name the current end of SESSION for fork and rewind.

    A NAME that exists already moves to the new point.
    """
    answer = ctx.call("session.checkpoint", {"session": session, "name": name})
    ctx.print_result(answer, f"checkpoint {name} at seq {answer['at']}")


@command("walrusctl session checkpoints 3")
@click.argument("session", type=SESSION)
def checkpoints(ctx: CliContext, session: int) -> None:
    """List the checkpoints of SESSION, the newest last."""
    found, _ = fetch_pages(ctx, "session.checkpoints", "checkpoints", {"session": session}, None)
    rows = [(each["at"], format_time(each["ts"]), each["name"]) for each in found]
    ctx.print_result({"checkpoints": found}, format_table(("SEQ", "CREATED", "NAME"), rows))


def _resolve_seq(ctx: CliContext, session: int, point: int | str) -> int:
    """Returns the seq of a point. Raises RequestFailed if there is no such checkpoint."""
    if isinstance(point, int):
        return point
    found, _ = fetch_pages(ctx, "session.checkpoints", "checkpoints", {"session": session}, None)
    for each in found:
        if each["name"] == point:
            return int(each["at"])
    message, hint = (
        f"session {session} has no checkpoint {point!r}",
        f"`walrusctl session checkpoints {session}` lists them.",
    )
    raise RequestFailed(wire.NOT_FOUND, "checkpoint_not_found", message, hint)


def _rounding_note(wanted: int | None, actual: int) -> str:
    if wanted in (None, actual):
        return ""
    return f"from seq {actual} instead: at seq {wanted} a tool call had no result yet"
