"""The command `walrusctl gc`: deletes sessions that retention no longer keeps, and prints how much."""

import click

from walrusctl.click_base import command
from walrusctl.context import CliContext
from walrusctl.formatting import format_bytes, format_count

MAX_WAIT_S = 3600
"""Seconds to wait: a large database is collected in small steps, so that no turn waits for it."""


@command("walrusctl gc --dry-run", "walrusctl gc")
@click.option("--dry-run", is_flag=True, help="Delete nothing; print about how much it would be.")
def gc(ctx: CliContext, *, dry_run: bool) -> None:
    """Delete old sessions and outputs, as [storage] allows.

    The limits are retain_closed_days and max_db_bytes of [storage] in walrus.toml. walrusd does the same by itself, at
    its start, every hour and as the database grows. Without these keys every session is kept, and this only returns
    free pages of the database to the file system.
    """
    result = ctx.call("daemon.gc", {"dry_run": dry_run}, timeout_s=MAX_WAIT_S)
    action = "would delete" if dry_run else "deleted"
    sessions, events, outputs = (format_count(result[f"{noun}s"], noun) for noun in ("session", "event", "output"))
    size = f"{'about ' if dry_run else ''}{format_bytes(result['bytes'])}"
    database = f"the database has {format_bytes(result['db_bytes'])}"
    ctx.print_result(result, f"{action} {sessions} ({events}) and {outputs}\n{size}; {database}")
