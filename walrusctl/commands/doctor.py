"""walrusctl doctor: what is well with a home and around it, what is not, and what to do."""

import os
import sys

import click

from walrus_protocol import wire
from walrusctl.click_base import common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.formatting import wrap_text
from walrusctl.output import print_answer, print_json, terminal_width, write_stdout

_MARKS = {"fine": ("32", "✓"), "warning": ("33", "!"), "broken": ("31", "✗")}


@click.command()
@common_options
@pass_cli_context
def doctor(ctx: CliContext) -> None:
    """Look at all that walrusd needs, running or not, and say what to do.

    Exit 0 where nothing is broken; a warning breaks nothing.
    """
    from walrusctl.doctor.runner import run_checks

    checks = run_checks(ctx.home_path(), ctx.socket, os.environ)
    if ctx.json:
        print_json({"checks": [check._asdict() for check in checks]})
    else:
        marked, columns = _can_show_marks(), terminal_width(sys.stdout)
        size = max(len(check.name) for check in checks)
        indent = (2 if marked else 9) + size + 2
        for check in checks:
            if marked:
                colour, mark = _MARKS[check.status]
                write_stdout(f"\x1b[{colour}m{mark}\x1b[0m ")
            else:
                write_stdout(f"{check.status:7}  ")
            print_answer(f"{check.name:{size}}  {wrap_text(check.message, columns, indent)}")
            if check.hint:
                print_answer(f"{'':{indent}}hint: {wrap_text(check.hint, columns, indent + len('hint: '))}")
    if any(check.status == "broken" for check in checks):
        raise click.exceptions.Exit(wire.EXIT_INTERNAL)


def _can_show_marks() -> bool:
    """On a terminal that has the characters, where nobody has asked for less."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return False
    try:
        "✓✗".encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True
