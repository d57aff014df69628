"""walrusctl doctor: what is well with a home and around it, what is not, and what to do."""

import os
import sys

import click

from walrus_protocol import wire
from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import say, say_json, write

_MARKS = {"fine": ("32", "✓"), "warning": ("33", "!"), "broken": ("31", "✗")}


@click.command()
@common_options
@pass_invocation
def doctor(asked: Invocation) -> None:
    """Look at all that walrusd needs, running or not, and say what to do.

    Exit 0 where nothing is broken; a warning breaks nothing.
    """
    from walrusctl.doctor.examination import examine

    checks = examine(asked.home_path(), asked.socket, os.environ)
    if asked.json:
        say_json({"checks": [check._asdict() for check in checks]})
    else:
        marked = _marks_show()
        width = max(len(check.name) for check in checks)
        for check in checks:
            if marked:
                colour, mark = _MARKS[check.status]
                write(f"\x1b[{colour}m{mark}\x1b[0m ")
                say(f"{check.name:{width}}  {check.message}")
            else:
                say(f"{check.status:7}  {check.name:{width}}  {check.message}")
            if check.hint:
                say(f"{'':{4 if marked else 11}}{'':{width}}hint: {check.hint}")
    if any(check.status == "broken" for check in checks):
        raise click.exceptions.Exit(wire.EXIT_INTERNAL)


def _marks_show() -> bool:
    """On a terminal that has the characters, where nobody has asked for less."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return False
    try:
        "✓✗".encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True
