"""The command `walrusctl tool output`: prints the stored output of a tool."""

import sys

import click

from walrusctl.click_base import OFFSET, SESSION, command, group, lazy_commands
from walrusctl.context import CliContext
from walrusctl.output import StreamPrinter, print_json


@group("walrusctl tool output 3 0a1b2c", lazy=lazy_commands("tool:output"))
def tool() -> None:
    """Print the outputs of tools."""


@command("walrusctl tool output 3 0a1b2c")
@click.argument("session", type=SESSION)
@click.argument("ref")
@click.option("--offset", type=OFFSET, metavar="BYTES", default=0, help="Skip this many bytes. [0]")
def output(ctx: CliContext, session: int, ref: str, offset: int) -> None:
    """Print the whole output that the model saw in part.

    REF is in the gap of the text that the model saw, and in the event tool_result.
    """
    printer, texts, at = StreamPrinter(sys.stdout), [], offset
    with ctx.connect() as client:
        while at is not None:
            page = client.call("tool.output", {"session": session, "ref": ref, "offset": at})
            at = page["next"]
            if ctx.json:
                texts.append(page["text"])
            else:
                printer.write(page["text"])
    if ctx.json:
        print_json({"text": "".join(texts), "next": None})
    else:
        printer.end_line()
