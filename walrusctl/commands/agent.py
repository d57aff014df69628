"""walrusctl agent: the agents that sessions can be made of."""

import click

from walrusctl.click_base import LazyGroup, common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.formatting import format_fields, format_table
from walrusctl.output import print_answer, print_json

HERE = "walrusctl.commands.agent"


@click.command(cls=LazyGroup, lazy={"list": f"{HERE}:list_", "show": f"{HERE}:show"})
@common_options
def agent() -> None:
    """The agents that walrusd knows."""


@click.command("list")
@common_options
@pass_cli_context
def list_(ctx: CliContext) -> None:
    """List the agents."""
    answer = ctx.call("agent.list")
    if ctx.json:
        print_json(answer)
        return
    rows = [(one["name"], one["model"] or "-", one["description"]) for one in answer["agents"]]
    print_answer(format_table(("NAME", "MODEL", "DESCRIPTION"), rows))


@click.command()
@click.argument("name")
@common_options
@pass_cli_context
def show(ctx: CliContext, name: str) -> None:
    """Show one agent: its model, its limits, its tools, its system prompt."""
    one = ctx.call("agent.get", {"agent": name})
    if ctx.json:
        print_json(one)
        return
    pairs = [(key, one[key]) for key in ("name", "description", "model", "max_iterations", "thinking", "workspace")]
    print_answer(format_fields([*pairs, ("tools", ", ".join(one["tools"]) or "none")]))
    if one["system_prompt"]:
        print_answer(f"\n{one['system_prompt']}")
