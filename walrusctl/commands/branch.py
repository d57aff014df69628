"""walrusctl session fork, rewind, checkpoint, checkpoints: other ways on from an earlier point of a conversation."""

import click

from walrus_protocol import wire
from walrus_protocol.client import RequestFailed
from walrusctl.groups import KEY, SESSION, common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import note, say, say_json
from walrusctl.paging import paged
from walrusctl.render import table, when

_LONGEST_SEQ = 16
"""Digits: as many as 2^53 has."""
_SEQ: click.ParamType[int] = click.IntRange(1, 2**53 - 1)


class Point(click.ParamType[int | str]):
    """A seq, or the name of a checkpoint."""

    name = "seq or name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        is_seq = value.isascii() and value.isdigit() and len(value) <= _LONGEST_SEQ
        return _SEQ.convert(value, param, ctx) if is_seq else value


POINT = Point()


@click.command()
@click.argument("session", type=SESSION)
@click.option("--at", type=POINT, metavar="SEQ|NAME", help="Go on from this point, a seq or a checkpoint. [the end]")
@common_options
@pass_invocation
def fork(asked: Invocation, session: int, at: int | str | None) -> None:
    """Make a session that goes on from a point of SESSION, and print its id alone.

    `session attach SESSION --seq` shows the seqs, `session checkpoints` the names.
    SESSION itself is left as it is; it may be running, or closed.
    """
    wanted = None if at is None else _seq_of(asked, session, at)
    forked = asked.call("session.fork", {"session": session, "at": wanted})
    if asked.json:
        say_json(forked)
        return
    say(str(forked["session"]))
    _tell_if_rounded(wanted, forked["at"])


@click.command()
@click.argument("session", type=SESSION)
@click.argument("to", type=POINT, metavar="SEQ|NAME")
@common_options
@pass_invocation
def rewind(asked: Invocation, session: int, to: int | str) -> None:
    """Have SESSION go on from an earlier point of its own: a seq, or a checkpoint.

    `session attach SESSION --seq` shows the seqs, `session checkpoints` the names.
    Nothing is erased: a rewind to a point before this rewind brings everything back.
    """
    wanted = _seq_of(asked, session, to)
    answer = asked.call("session.rewind", {"session": session, "to": wanted})
    if asked.json:
        say_json(answer)
        return
    say(f"rewound to seq {answer['to']}")
    _tell_if_rounded(wanted, answer["to"])


@click.command()
@click.argument("session", type=SESSION)
@click.argument("name", type=KEY)
@common_options
@pass_invocation
def checkpoint(asked: Invocation, session: int, name: str) -> None:
    """Call the point where SESSION stands NAME, for fork and rewind. A name that is used again moves."""
    answer = asked.call("session.checkpoint", {"session": session, "name": name})
    if asked.json:
        say_json(answer)
    else:
        say(f"checkpoint {name} at seq {answer['at']}")


@click.command()
@click.argument("session", type=SESSION)
@common_options
@pass_invocation
def checkpoints(asked: Invocation, session: int) -> None:
    """List the checkpoints of SESSION, the latest last."""
    found, _ = paged(asked, "session.checkpoints", "checkpoints", {"session": session}, None)
    if asked.json:
        say_json({"checkpoints": found})
        return
    say(table(("SEQ", "MADE", "NAME"), [(one["at"], when(one["ts"]), one["name"]) for one in found]))


def _seq_of(asked: Invocation, session: int, point: int | str) -> int:
    """What a person calls a point, as a seq. Raises RequestFailed where there is no such checkpoint."""
    if isinstance(point, int):
        return point
    found, _ = paged(asked, "session.checkpoints", "checkpoints", {"session": session}, None)
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


def _tell_if_rounded(wanted: int | None, point: int) -> None:
    if wanted not in (None, point):
        note(f"from seq {point}: at {wanted} a tool call was open")
