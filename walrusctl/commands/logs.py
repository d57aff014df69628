"""walrusctl logs: what walrusd has logged, from the journal."""

import os
import shutil

import click

from walrus_protocol import wire
from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import complain
from walrusctl.units import SERVICE

JOURNALS = ("/run/log/journal", "/var/log/journal")


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), metavar="N", help="Only the last N lines. [10 with -f, else all]"
)
@common_options
@pass_invocation
def logs(asked: Invocation, *, follow: bool, lines: int | None) -> None:
    """Show the log of walrusd as a service."""
    if shutil.which("journalctl") is None or not any(map(os.path.isdir, JOURNALS)):
        complain(
            "there is no journal here",
            "walrusd writes its log to stderr: look where it was started, or start it with `walrusd 2>> FILE`",
        )
        raise click.exceptions.Exit(wire.EXIT_NOT_FOUND)
    words = ["journalctl", "--user", "--unit", SERVICE]
    words += ["--follow"] if follow else []
    words += ["--lines", str(lines)] if lines is not None else []
    words += ["--output", "json"] if asked.json else []
    os.execvp(words[0], words)  # noqa: S606 - no shell; the terminal and its keys are the journal's now
