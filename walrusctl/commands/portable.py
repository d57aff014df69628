"""walrusctl session export and import: a session as a document, and a document as a session."""

import codecs
import re
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import click

from walrus_protocol import wire
from walrus_protocol.client import Chunks, Json, RequestFailed
from walrus_protocol.cutting import Malformed
from walrusctl.groups import SESSION, common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import Flow, complain, note, say, say_json
from walrusctl.render import count
from walrusctl.transcript import lines, markdown
from walrusctl.whole_file import whole_file

_LONG_S = 3600
"""Seconds that a large document may take; no turn waits for it."""
_PART = 512 * 1024
"""Bytes of a document that are sent at once."""
_EVENT = re.compile(rb'\{\s*"(seq|type|offset)"')
"""How a line of jsonl begins."""


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
    if not path:
        raise click.UsageError("-o names no file; - is stdout")
    path = "-" if path == "/dev/stdout" else path
    if asked.json and form == "markdown" and path == "-":
        raise click.UsageError("--json and --format markdown exclude each other on stdout; give -o FILE")
    with asked.client(_LONG_S) as client, client.chunks("session.export", {"session": session}) as document:
        if path == "-":
            _write_all(document, form, Flow(sys.stdout).write)
            sys.stdout.flush()
            _tell_if_too_large(document.result)
            return
        try:
            with whole_file(path) as file:
                _write_all(document, form, file.write)
        except OSError as error:
            complain(f"cannot write {path}: {error.strerror}", "name another file, or make room for it")
            raise click.exceptions.Exit(wire.EXIT_INTERNAL) from None
    _tell_if_too_large(document.result)
    told = {**document.result, "file": path}
    if asked.json:
        say_json(told)
    else:
        note(f"{count(told['events'], 'event')}, {told['bytes']:,} bytes of JSON, written to {path} as {form}")


def _tell_if_too_large(exported: Json) -> None:
    if exported["bytes"] > wire.MAX_DOCUMENT:
        note(
            f"no walrusd imports a document of over {wire.MAX_DOCUMENT:,} bytes; a fork at an earlier point is smaller"
        )


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
    """Make a session of what `session export` wrote as json, FILE or - for stdin, and print its id alone.

    It has the history and the keys of the one that was exported, and goes on for itself.
    """
    if file.isatty():
        note("waiting for a document on stdin; Ctrl-D ends it")
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
    """The document in parts, and which is the last. Raises RequestFailed for what anybody can see is none."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    data = file.read(_PART)
    if wrong := _seen_in(data):
        raise _no_document(wrong)
    while True:
        # What is short is the end already: a terminal would have to be told of it twice.
        more = file.read(_PART) if len(data) == _PART else b""
        try:
            text = decoder.decode(data, final=not more)
        except UnicodeDecodeError:
            raise _no_document("it holds bytes that are no UTF-8") from None
        yield text, not more
        if not more:
            return
        data = more


def _seen_in(beginning: bytes) -> str:
    """What is wrong with a file of which this is the beginning, as far as that shows; "" where nothing does."""
    first, _, _ = beginning.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    if not first:
        return "it is empty"
    if first.startswith(b"#"):
        return "it looks like --format markdown, which is for people"
    if _EVENT.match(first):
        return "it looks like --format jsonl, which has the events and nothing else"
    return ""


def _no_document(wrong: str) -> RequestFailed:
    message = f"this is no exported session: {wrong}"
    return RequestFailed(wire.INVALID_PARAMS, "invalid_params", message, "export it as json, the default of --format")
