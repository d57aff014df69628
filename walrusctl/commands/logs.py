"""The command `walrusctl logs`: shows the log of the walrusd service from the journal."""

import glob
import os
import shlex
import shutil

import click

from walrus_protocol import wire
from walrusctl import systemd_units
from walrusctl.click_base import BoundedNumber, command
from walrusctl.context import CliContext, CommandFailed

JOURNAL_FILES = ("/run/log/journal/*/*.journal", "/var/log/journal/*/*.journal")
MAX_LINES = 1_000_000


@command("walrusctl logs -n 50", "walrusctl logs -f")
@click.option("-f", "--follow", is_flag=True, help="Wait for new lines until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=BoundedNumber(click.IntRange(1, MAX_LINES)),
    metavar="N",
    help="Only the last N lines, up to 1,000,000. [10 with -f, else all]",
)
def logs(ctx: CliContext, *, follow: bool, lines: int | None) -> None:
    """Show the log of the walrusd service."""
    folder, home = systemd_units.unit_folder(os.environ), ctx.home_path()
    if other := systemd_units.find_other_home(folder, home):
        message = f"the service is for the home {other}"
        hint = f"`walrusctl --home {shlex.quote(other)} logs` shows its log"
        raise CommandFailed(message, hint, wire.EXIT_NOT_FOUND)
    if not os.path.lexists(os.path.join(folder, systemd_units.SERVICE)):
        message = "walrusd is not installed as a service; it logs to the stderr of the shell that started it"
        raise CommandFailed(message, status=wire.EXIT_NOT_FOUND)
    if shutil.which("journalctl") is None or not any(map(glob.glob, JOURNAL_FILES)):
        hint = "walrusd logs to stderr: see the terminal that started it, or start it with `walrusd 2>> FILE`"
        raise CommandFailed("this system has no journal", hint, wire.EXIT_NOT_FOUND)
    command = ["journalctl", "--user", "--unit", systemd_units.SERVICE]
    command += ["--follow"] if follow else []
    command += ["--lines", str(lines)] if lines is not None else []
    command += ["--output", "json"] if ctx.json else []
    os.execvp(command[0], command)  # noqa: S606 - no shell; journalctl takes over the terminal
