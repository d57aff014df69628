"""walrusctl reload: have walrusd read its files anew, and say what became of it."""

import click

from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import complain, say, say_json


@click.command()
@common_options
@pass_invocation
def reload(asked: Invocation) -> None:
    """Put walrus.toml and agents/*.md in force as they are now.

    Turns that run keep what they started with. Exit 2 where something is wrong with the files: then nothing changes.
    """
    told = asked.call("daemon.reload")
    if asked.json:
        say_json(told)
    else:
        lines = [f"changed: {key}" for key in told["changed"]]
        lines += [f"at restart: {key}" for key in told["at_restart"]]
        say("\n".join(lines) or "nothing has changed")
    for warning in told["warnings"]:
        complain(f"warning: {warning}")
