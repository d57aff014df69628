"""The command `walrusctl reload`: makes walrusd read its configuration again."""

import click

from walrusctl.click_base import common_options, examples
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.output import print_error


@click.command(epilog=examples("walrusctl reload"))
@common_options
@pass_cli_context
def reload(ctx: CliContext) -> None:
    """Apply the current walrus.toml and agents/*.md.

    Running turns keep the configuration they started with. If the files have an error nothing changes, and it exits
    with 2.
    """
    result = ctx.call("daemon.reload")
    lines = [f"changed: {key}" for key in result["changed"]]
    lines += [f"at restart: {key}" for key in result["at_restart"]]
    ctx.print_result(result, "\n".join(lines) or "no changes")
    for warning in result["warnings"]:
        print_error(f"warning: {warning}")
