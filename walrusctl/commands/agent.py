"""walrusctl agent: the agents that sessions can be made of."""

import click

from walrusctl.groups import LazyGroup, common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import say, say_json
from walrusctl.render import fields, table

HERE = "walrusctl.commands.agent"


@click.command(cls=LazyGroup, lazy={"list": f"{HERE}:list_", "show": f"{HERE}:show"})
@common_options
def agent() -> None:
    """The agents that walrusd knows."""


@click.command("list")
@common_options
@pass_invocation
def list_(asked: Invocation) -> None:
    """List the agents."""
    answer = asked.call("agent.list")
    if asked.json:
        say_json(answer)
        return
    rows = [(one["name"], one["model"] or "-", one["description"]) for one in answer["agents"]]
    say(table(("NAME", "MODEL", "DESCRIPTION"), rows))


@click.command()
@click.argument("name")
@common_options
@pass_invocation
def show(asked: Invocation, name: str) -> None:
    """Show one agent: its model, its limits, its tools, its system prompt."""
    one = asked.call("agent.get", {"agent": name})
    if asked.json:
        say_json(one)
        return
    pairs = [(key, one[key]) for key in ("name", "description", "model", "max_iterations", "thinking", "workspace")]
    say(fields([*pairs, ("tools", ", ".join(one["tools"]) or "none")]))
    if one["system_prompt"]:
        say(f"\n{one['system_prompt']}")
