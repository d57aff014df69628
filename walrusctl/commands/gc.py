"""walrusctl gc: throw away now what need not be kept, and say what that was."""

import click

from walrusctl.click_base import common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.formatting import format_bytes, format_count
from walrusctl.output import print_answer, print_json

MAX_WAIT_S = 3600
"""A large database is swept in small pieces, so that no turn waits for it."""


@click.command()
@click.option("--dry-run", is_flag=True, help="Throw nothing away; say about how much it would be.")
@common_options
@pass_cli_context
def gc(ctx: CliContext, *, dry_run: bool) -> None:
    """Throw away what [storage] says need not be kept: retain_closed_days, max_db_bytes.

    walrusd does the same by itself, at its start, every hour and as the database grows. Without these keys every
    session is kept, and this only gives back the room that is free.
    """
    told = ctx.call("daemon.gc", {"dry_run": dry_run}, timeout_s=MAX_WAIT_S)
    if ctx.json:
        print_json(told)
        return
    did = "would throw away" if dry_run else "threw away"
    sessions, events, outputs = (format_count(told[f"{what}s"], what) for what in ("session", "event", "output"))
    print_answer(f"{did} {sessions} ({events}) and {outputs}")
    freed = "about " if dry_run else ""
    print_answer(f"{freed}{format_bytes(told['bytes'])}; the database has {format_bytes(told['db_bytes'])}")
