"""The command `walrusctl reload`: makes walrusd read its configuration again."""

from walrusctl.click_base import command
from walrusctl.context import CliContext
from walrusctl.output import print_error


@command("walrusctl reload")
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
