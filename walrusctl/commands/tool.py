"""walrusctl tool: what tools have said."""

import sys

import click

from walrusctl.groups import SESSION, LazyGroup, common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import Flow, say_json

HERE = "walrusctl.commands.tool"


@click.command(cls=LazyGroup, lazy={"output": f"{HERE}:output"})
@common_options
def tool() -> None:
    """What tools have said."""


@click.command()
@click.argument("session", type=SESSION)
@click.argument("ref")
@click.option("--offset", type=click.IntRange(0, 2**53 - 1), default=0, help="Begin after so many bytes. [0]")
@common_options
@pass_invocation
def output(asked: Invocation, session: int, ref: str, offset: int) -> None:
    """Print an output of SESSION whole that the model was shown only in part.

    REF stands in the gap of what it was shown, and in its tool_result.
    """
    shown, texts, at = Flow(sys.stdout), [], offset
    with asked.client() as client:
        while at is not None:
            page = client.call("tool.output", {"session": session, "ref": ref, "offset": at})
            at = page["next"]
            if asked.json:
                texts.append(page["text"])
            else:
                shown.write(page["text"])
    if asked.json:
        say_json({"text": "".join(texts), "next": None})
    else:
        shown.end_line()
