"""walrusctl logs: what walrusd has logged, from the journal."""

import glob
import os
import shlex
import shutil
from typing import NoReturn

import click

from walrus_protocol import wire
from walrusctl import units
from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import complain, say_json

JOURNALS = ("/run/log/journal/*/*.journal", "/var/log/journal/*/*.journal")
MOST_LINES = 1_000_000


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, MOST_LINES),
    metavar="N",
    help="Only the last N lines, up to 1,000,000. [10 with -f, else all]",
)
@common_options
@pass_invocation
def logs(asked: Invocation, *, follow: bool, lines: int | None) -> None:
    """Show the log of walrusd as a service."""
    folder, home = units.folder(os.environ), asked.home_path()
    if theirs := units.other_home(folder, home):
        _none(asked, f"the service is that of {theirs}", f"`walrusctl --home {shlex.quote(theirs)} logs` shows its log")
    if not os.path.lexists(os.path.join(folder, units.SERVICE)):
        _none(asked, "walrusd is not installed as a service; it logs to stderr where it was started")
    if shutil.which("journalctl") is None or not any(map(glob.glob, JOURNALS)):
        hint = "walrusd writes its log to stderr: look where it was started, or start it with `walrusd 2>> FILE`"
        _none(asked, "there is no journal here", hint)
    words = ["journalctl", "--user", "--unit", units.SERVICE]
    words += ["--follow"] if follow else []
    words += ["--lines", str(lines)] if lines is not None else []
    words += ["--output", "json"] if asked.json else []
    os.execvp(words[0], words)  # noqa: S606 - no shell; the terminal and its keys are the journal's now


def _none(asked: Invocation, message: str, hint: str = "") -> NoReturn:
    complain(message, hint)
    if asked.json:
        say_json({"error": {"message": message, "hint": hint}})
    raise click.exceptions.Exit(wire.EXIT_NOT_FOUND)
