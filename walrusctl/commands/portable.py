"""walrusctl session export and import: a session as a document, and a document as a session."""

import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import click

from walrus_protocol import wire
from walrus_protocol.client import Chunks, Json
from walrus_protocol.cutting import Malformed
from walrusctl.groups import SESSION, common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import Flow, complain, note, say, say_json
from walrusctl.transcript import lines, markdown
from walrusctl.whole_file import whole_file

_LONG_S = 3600
"""Seconds that a large document may take; no turn waits for it."""
_PART = 512 * 1024
"""Bytes of a document that are sent at once."""


@click.command()
@click.argument("session", type=SESSION)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "jsonl", "markdown"]),
    default="json",
    show_default=True,
    help="json is what `session import` takes; jsonl has an event a line; markdown is for people.",
)
@click.option(
    "-o", "--output", "path", metavar="FILE", default="-", help="Write it there, whole or not at all. [stdout]"
)
@common_options
@pass_invocation
def export(asked: Invocation, session: int, form: str, path: str) -> None:
    """Write SESSION down as one document that holds all it needs, with what it inherits.

    A turn that is under way is left out. SESSION may be closed.
    """
    if asked.json and form == "markdown" and path == "-":
        raise click.UsageError("--json and --format markdown exclude each other on stdout; give -o FILE")
    with asked.client(_LONG_S) as client, client.chunks("session.export", {"session": session}) as document:
        if path == "-":
            _write_all(document, form, Flow(sys.stdout).write)
            sys.stdout.flush()
            return
        try:
            with whole_file(path) as file:
                _write_all(document, form, file.write)
        except OSError as error:
            complain(f"cannot write {path}: {error.strerror}", "name another file, or make room for it")
            raise click.exceptions.Exit(wire.EXIT_INTERNAL) from None
    told = {**document.result, "file": path}
    if asked.json:
        say_json(told)
    else:
        note(f"{told['events']:,} events, {told['bytes']:,} bytes of JSON, written to {path} as {form}")


def _write_all(document: Chunks, form: str, write: Callable[[str], object]) -> None:
    if form == "json":
        for piece in document:
            write(piece)
        return
    try:
        for text in (lines if form == "jsonl" else markdown)(lambda: next(document, "")):
            write(text)
    except Malformed as malformed:
        complain(f"walrusd sent a document that is none: {malformed}", "is walrusctl as new as walrusd?")
        raise click.exceptions.Exit(wire.EXIT_INTERNAL) from None


@click.command("import")
@click.argument("file", type=click.File("rb"))
@common_options
@pass_invocation
def import_(asked: Invocation, file: BinaryIO) -> None:
    """Make a session of an exported document, FILE or - for stdin, and print its id alone.

    It has the history and the keys of the one that was exported, and goes on for itself.
    """
    imported: Json = {}
    with asked.client(_LONG_S) as client:
        for data, last in _parts(file):
            imported = client.call("session.import", {"data": data, "last": last})
    if asked.json:
        say_json(imported)
        return
    say(str(imported["session"]))
    for warning in imported["warnings"]:
        note(warning)


def _parts(file: BinaryIO) -> Iterator[tuple[str, bool]]:
    """The document in parts, and which is the last. Raises UsageError for bytes that are no text."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    data = file.read(_PART)
    while True:
        more = file.read(_PART)
        try:
            text = decoder.decode(data, final=not more)
        except UnicodeDecodeError:
            raise click.UsageError("FILE is no exported session: it holds bytes that are no UTF-8") from None
        yield text, not more
        if not more:
            return
        data = more
