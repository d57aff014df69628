"""walrusctl doctor: what is well with a home and around it, what is not, and what to do."""

import os
import sys

import click

from walrus_protocol import wire
from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import say, say_json, width, write
from walrusctl.render import wrapped

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
        marked, columns = _marks_show(), width(sys.stdout)
        size = max(len(check.name) for check in checks)
        indent = (2 if marked else 9) + size + 2
        for check in checks:
            if marked:
                colour, mark = _MARKS[check.status]
                write(f"\x1b[{colour}m{mark}\x1b[0m ")
            else:
                write(f"{check.status:7}  ")
            say(f"{check.name:{size}}  {wrapped(check.message, columns, indent)}")
            if check.hint:
                say(f"{'':{indent}}hint: {wrapped(check.hint, columns, indent + len('hint: '))}")
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
