"""walrusctl tool: what tools have said."""

import sys

import click

from walrusctl.click_base import SESSION, LazyGroup, common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.output import StreamPrinter, print_json

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
@pass_cli_context
def output(ctx: CliContext, session: int, ref: str, offset: int) -> None:
    """Print an output of SESSION whole that the model was shown only in part.

    REF stands in the gap of what it was shown, and in its tool_result.
    """
    shown, texts, at = StreamPrinter(sys.stdout), [], offset
    with ctx.connect() as client:
        while at is not None:
            page = client.call("tool.output", {"session": session, "ref": ref, "offset": at})
            at = page["next"]
            if ctx.json:
                texts.append(page["text"])
            else:
                shown.write(page["text"])
    if ctx.json:
        print_json({"text": "".join(texts), "next": None})
    else:
        shown.end_line()
