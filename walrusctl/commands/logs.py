"""walrusctl logs: what walrusd has logged, from the journal."""

import glob
import os
import shlex
import shutil
from typing import NoReturn

import click

from walrus_protocol import wire
from walrusctl import systemd_units
from walrusctl.click_base import common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.output import print_error, print_json

JOURNALS = ("/run/log/journal/*/*.journal", "/var/log/journal/*/*.journal")
MAX_LINES = 1_000_000


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, MAX_LINES),
    metavar="N",
    help="Only the last N lines, up to 1,000,000. [10 with -f, else all]",
)
@common_options
@pass_cli_context
def logs(ctx: CliContext, *, follow: bool, lines: int | None) -> None:
    """Show the log of walrusd as a service."""
    folder, home = systemd_units.unit_folder(os.environ), ctx.home_path()
    if theirs := systemd_units.find_other_home(folder, home):
        _exit_not_found(
            ctx, f"the service is that of {theirs}", f"`walrusctl --home {shlex.quote(theirs)} logs` shows its log"
        )
    if not os.path.lexists(os.path.join(folder, systemd_units.SERVICE)):
        _exit_not_found(ctx, "walrusd is not installed as a service; it logs to stderr where it was started")
    if shutil.which("journalctl") is None or not any(map(glob.glob, JOURNALS)):
        hint = "walrusd writes its log to stderr: look where it was started, or start it with `walrusd 2>> FILE`"
        _exit_not_found(ctx, "there is no journal here", hint)
    words = ["journalctl", "--user", "--unit", systemd_units.SERVICE]
    words += ["--follow"] if follow else []
    words += ["--lines", str(lines)] if lines is not None else []
    words += ["--output", "json"] if ctx.json else []
    os.execvp(words[0], words)  # noqa: S606 - no shell; the terminal and its keys are the journal's now


def _exit_not_found(ctx: CliContext, message: str, hint: str = "") -> NoReturn:
    print_error(message, hint)
    if ctx.json:
        print_json({"error": {"message": message, "hint": hint}})
    raise click.exceptions.Exit(wire.EXIT_NOT_FOUND)
