"""walrusctl gc: throw away now what need not be kept, and say what that was."""

import click

from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import say, say_json
from walrusctl.render import count, size

PATIENCE_S = 3600
"""A large database is swept in small pieces, so that no turn waits for it."""


@click.command()
@click.option("--dry-run", is_flag=True, help="Throw nothing away; say about how much it would be.")
@common_options
@pass_invocation
def gc(asked: Invocation, *, dry_run: bool) -> None:
    """Throw away what [storage] says need not be kept: retain_closed_days, max_db_bytes.

    walrusd does the same by itself, at its start, every hour and as the database grows. Without these keys every
    session is kept, and this only gives back the room that is free.
    """
    told = asked.call("daemon.gc", {"dry_run": dry_run}, within=PATIENCE_S)
    if asked.json:
        say_json(told)
        return
    did = "would throw away" if dry_run else "threw away"
    sessions, events, outputs = (count(told[f"{what}s"], what) for what in ("session", "event", "output"))
    say(f"{did} {sessions} ({events}) and {outputs}")
    freed = "about " if dry_run else ""
    say(f"{freed}{size(told['bytes'])}; the database has {size(told['db_bytes'])}")
