"""The commands `walrusctl agent`: list the agents, show one."""

import click

from walrusctl.click_base import command, group, lazy_commands
from walrusctl.context import CliContext
from walrusctl.formatting import format_fields, format_table


@group(
    "walrusctl agent list",
    "walrusctl agent show walrus",
    lazy=lazy_commands("agent:list_", "agent:show"),
)
def agent() -> None:
    """List and show agents."""


@command("walrusctl agent list")
def list_(ctx: CliContext) -> None:
    """List the agents with their models."""
    answer = ctx.call("agent.list")
    rows = [(agent["name"], agent["model"] or "-", agent["description"]) for agent in answer["agents"]]
    ctx.print_result(answer, format_table(("NAME", "MODEL", "DESCRIPTION"), rows))


@command("walrusctl agent show walrus")
@click.argument("name")
def show(ctx: CliContext, name: str) -> None:
    """Show the settings and system prompt of an agent."""
    info = ctx.call("agent.get", {"agent": name})
    pairs = [(key, info[key]) for key in ("name", "description", "model", "max_iterations", "thinking", "workspace")]
    text = format_fields([*pairs, ("tools", ", ".join(info["tools"]) or "none")])
    ctx.print_result(info, f"{text}\n\n{info['system_prompt']}" if info["system_prompt"] else text)
