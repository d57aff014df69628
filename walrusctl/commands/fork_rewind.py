"""walrusctl session fork, rewind, checkpoint, checkpoints: other ways on from an earlier point of a conversation."""

import click

from walrus_protocol import wire
from walrus_protocol.client import RequestFailed
from walrusctl.click_base import KEY, SESSION, common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.formatting import format_table, format_time
from walrusctl.output import print_answer, print_json, print_note
from walrusctl.pagination import fetch_pages

_MAX_SEQ_DIGITS = 16
"""Digits: as many as 2^53 has."""
_SEQ_TYPE: click.ParamType[int] = click.IntRange(1, 2**53 - 1)


class Point(click.ParamType[int | str]):
    """A seq, or the name of a checkpoint."""

    name = "seq or name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        is_seq = value.isascii() and value.isdigit() and len(value) <= _MAX_SEQ_DIGITS
        return _SEQ_TYPE.convert(value, param, ctx) if is_seq else value


POINT = Point()


@click.command()
@click.argument("session", type=SESSION)
@click.option("--at", type=POINT, metavar="SEQ|NAME", help="Go on from this point, a seq or a checkpoint. [the end]")
@common_options
@pass_cli_context
def fork(ctx: CliContext, session: int, at: int | str | None) -> None:
    """Make a session that goes on from a point of SESSION, and print its id alone.

    `session attach SESSION --seq` shows the seqs, `session checkpoints` the names.
    SESSION itself is left as it is; it may be running, or closed.
    """
    wanted = None if at is None else _resolve_seq(ctx, session, at)
    forked = ctx.call("session.fork", {"session": session, "at": wanted})
    if ctx.json:
        print_json(forked)
        return
    print_answer(str(forked["session"]))
    _note_if_rounded(wanted, forked["at"])


@click.command()
@click.argument("session", type=SESSION)
@click.argument("to", type=POINT, metavar="SEQ|NAME")
@common_options
@pass_cli_context
def rewind(ctx: CliContext, session: int, to: int | str) -> None:
    """Have SESSION go on from an earlier point of its own: a seq, or a checkpoint.

    `session attach SESSION --seq` shows the seqs, `session checkpoints` the names.
    Nothing is erased: a rewind to a point before this rewind brings everything back.
    """
    wanted = _resolve_seq(ctx, session, to)
    answer = ctx.call("session.rewind", {"session": session, "to": wanted})
    if ctx.json:
        print_json(answer)
        return
    print_answer(f"rewound to seq {answer['to']}")
    _note_if_rounded(wanted, answer["to"])


@click.command()
@click.argument("session", type=SESSION)
@click.argument("name", type=KEY)
@common_options
@pass_cli_context
def checkpoint(ctx: CliContext, session: int, name: str) -> None:
    """Call the point where SESSION stands NAME, for fork and rewind. A name that is used again moves."""
    answer = ctx.call("session.checkpoint", {"session": session, "name": name})
    if ctx.json:
        print_json(answer)
    else:
        print_answer(f"checkpoint {name} at seq {answer['at']}")


@click.command()
@click.argument("session", type=SESSION)
@common_options
@pass_cli_context
def checkpoints(ctx: CliContext, session: int) -> None:
    """List the checkpoints of SESSION, the latest last."""
    found, _ = fetch_pages(ctx, "session.checkpoints", "checkpoints", {"session": session}, None)
    if ctx.json:
        print_json({"checkpoints": found})
        return
    print_answer(
        format_table(("SEQ", "MADE", "NAME"), [(one["at"], format_time(one["ts"]), one["name"]) for one in found])
    )


def _resolve_seq(ctx: CliContext, session: int, point: int | str) -> int:
    """What a person calls a point, as a seq. Raises RequestFailed where there is no such checkpoint."""
    if isinstance(point, int):
        return point
    found, _ = fetch_pages(ctx, "session.checkpoints", "checkpoints", {"session": session}, None)
    for one in found:
        if one["name"] == point:
            seq: int = one["at"]
            return seq
    raise RequestFailed(
        wire.NOT_FOUND,
        "checkpoint_not_found",
        f"session {session} has no checkpoint {point!r}",
        f"`walrusctl session checkpoints {session}` shows those it has.",
    )


def _note_if_rounded(wanted: int | None, actual: int) -> None:
    if wanted not in (None, actual):
        print_note(f"from seq {actual}: at {wanted} a tool call was open")
