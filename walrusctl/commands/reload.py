"""walrusctl reload: have walrusd read its files anew, and say what became of it."""

import click

from walrusctl.click_base import common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.output import print_answer, print_error, print_json


@click.command()
@common_options
@pass_cli_context
def reload(ctx: CliContext) -> None:
    """Put walrus.toml and agents/*.md in force as they are now.

    Turns that run keep what they started with. Exit 2 where something is wrong with the files: then nothing changes.
    """
    told = ctx.call("daemon.reload")
    if ctx.json:
        print_json(told)
    else:
        lines = [f"changed: {key}" for key in told["changed"]]
        lines += [f"at restart: {key}" for key in told["at_restart"]]
        print_answer("\n".join(lines) or "nothing has changed")
    for warning in told["warnings"]:
        print_error(f"warning: {warning}")
