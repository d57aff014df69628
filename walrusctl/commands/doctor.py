"""The command `walrusctl doctor`: runs the checks and prints their findings."""

import os
import sys

import click

from walrus_protocol import wire
from walrusctl.click_base import command
from walrusctl.context import CliContext
from walrusctl.formatting import wrap_text
from walrusctl.output import print_answer, print_json, terminal_width, write_stdout

_MARKS = {"ok": ("32", "✓"), "warning": ("33", "!"), "error": ("31", "✗")}
"""For a terminal: the colour and the mark of each status."""


@command("walrusctl doctor", "walrusctl --home ~/other doctor", "walrusctl doctor --json")
def doctor(ctx: CliContext) -> None:
    """Check everything walrusd needs; say how to fix it.

    It changes nothing, and walrusd need not run. Each finding is ok, warning or error. Exit 1 if there is an error;
    warnings alone exit 0.
    """
    from walrusctl.doctor.check import has_error
    from walrusctl.doctor.runner import run_checks

    findings = run_checks(ctx.home_path(), ctx.socket, os.environ)
    if ctx.json:
        print_json({"checks": [{"name": name, **finding._asdict()} for name, finding in findings]})
    else:
        with_marks, columns = _can_show_marks(), terminal_width(sys.stdout)
        size = max(len(name) for name, _ in findings)
        indent = (2 if with_marks else 9) + size + 2
        for name, (status, message, hint) in findings:
            if with_marks:
                colour, mark = _MARKS[status]
                write_stdout(f"\x1b[{colour}m{mark}\x1b[0m ")
            else:
                write_stdout(f"{status:7}  ")
            print_answer(f"{name:{size}}  {wrap_text(message, columns, indent)}")
            if hint:
                print_answer(f"{'':{indent}}hint: {wrap_text(hint, columns, indent + len('hint: '))}")
    if has_error(finding for _, finding in findings):
        raise click.exceptions.Exit(wire.EXIT_INTERNAL)


def _can_show_marks() -> bool:
    """Whether stdout is a terminal that can show the marks, and NO_COLOR is not set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return False
    try:
        "✓✗".encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True
