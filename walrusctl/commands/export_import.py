"""walrusctl session export and import: a session as a document, and a document as a session."""

import codecs
import re
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import click

from walrus_protocol import wire
from walrus_protocol.client import Chunks, Json, RequestFailed
from walrus_protocol.json_reader import MalformedJson
from walrusctl.atomic_file import atomic_write
from walrusctl.click_base import SESSION, common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.formatting import format_count
from walrusctl.output import StreamPrinter, print_answer, print_error, print_json, print_note
from walrusctl.transcript import iter_jsonl, iter_markdown

_TRANSFER_TIMEOUT_S = 3600
"""Seconds that a large document may take; no turn waits for it."""
_PART_BYTES = 512 * 1024
"""Bytes of a document that are sent at once."""
_JSONL_START = re.compile(rb'\{\s*"(seq|type|offset)"')
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
@pass_cli_context
def export(ctx: CliContext, session: int, form: str, path: str) -> None:
    """Write SESSION down as one document that holds all it needs, with what it inherits.

    A turn that is under way is left out. SESSION may be closed.
    """
    if not path:
        raise click.UsageError("-o names no file; - is stdout")
    path = "-" if path == "/dev/stdout" else path
    if ctx.json and form == "markdown" and path == "-":
        raise click.UsageError("--json and --format markdown exclude each other on stdout; give -o FILE")
    with ctx.connect(_TRANSFER_TIMEOUT_S) as client, client.chunks("session.export", {"session": session}) as document:
        if path == "-":
            _write_document(document, form, StreamPrinter(sys.stdout).write)
            sys.stdout.flush()
            _note_if_too_large(document.result)
            return
        try:
            with atomic_write(path) as file:
                _write_document(document, form, file.write)
        except OSError as error:
            print_error(f"cannot write {path}: {error.strerror}", "name another file, or make room for it")
            raise click.exceptions.Exit(wire.EXIT_INTERNAL) from None
    _note_if_too_large(document.result)
    told = {**document.result, "file": path}
    if ctx.json:
        print_json(told)
    else:
        print_note(
            f"{format_count(told['events'], 'event')}, {told['bytes']:,} bytes of JSON, written to {path} as {form}"
        )


def _note_if_too_large(exported: Json) -> None:
    if exported["bytes"] > wire.MAX_DOCUMENT:
        print_note(
            f"no walrusd imports a document of over {wire.MAX_DOCUMENT:,} bytes; a fork at an earlier point is smaller"
        )


def _write_document(document: Chunks, form: str, write: Callable[[str], object]) -> None:
    if form == "json":
        for piece in document:
            write(piece)
        return
    try:
        for text in (iter_jsonl if form == "jsonl" else iter_markdown)(lambda: next(document, "")):
            write(text)
    except MalformedJson as malformed:
        print_error(f"walrusd sent a document that is none: {malformed}", "is walrusctl as new as walrusd?")
        raise click.exceptions.Exit(wire.EXIT_INTERNAL) from None


@click.command("import")
@click.argument("file", type=click.File("rb"))
@common_options
@pass_cli_context
def import_(ctx: CliContext, file: BinaryIO) -> None:
    """Make a session of what `session export` wrote as json, FILE or - for stdin, and print its id alone.

    It has the history and the keys of the one that was exported, and goes on for itself.
    """
    if file.isatty():
        print_note("waiting for a document on stdin; Ctrl-D ends it")
    imported: Json = {}
    with ctx.connect(_TRANSFER_TIMEOUT_S) as client:
        for data, last in _read_parts(file):
            imported = client.call("session.import", {"data": data, "last": last})
    if ctx.json:
        print_json(imported)
        return
    print_answer(str(imported["session"]))
    for warning in imported["warnings"]:
        print_note(warning)


def _read_parts(file: BinaryIO) -> Iterator[tuple[str, bool]]:
    """The document in parts, and which is the last. Raises RequestFailed for what anybody can see is none."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    data = file.read(_PART_BYTES)
    if wrong := _detect_wrong_format(data):
        raise _invalid_document(wrong)
    while True:
        # What is short is the end already: a terminal would have to be told of it twice.
        more = file.read(_PART_BYTES) if len(data) == _PART_BYTES else b""
        try:
            text = decoder.decode(data, final=not more)
        except UnicodeDecodeError:
            raise _invalid_document("it holds bytes that are no UTF-8") from None
        yield text, not more
        if not more:
            return
        data = more


def _detect_wrong_format(beginning: bytes) -> str:
    """What is wrong with a file of which this is the beginning, as far as that shows; "" where nothing does."""
    first, _, _ = beginning.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    if not first:
        return "it is empty"
    if first.startswith(b"#"):
        return "it looks like --format markdown, which is for people"
    if _JSONL_START.match(first):
        return "it looks like --format jsonl, which has the events and nothing else"
    return ""


def _invalid_document(reason: str) -> RequestFailed:
    message = f"this is no exported session: {reason}"
    return RequestFailed(wire.INVALID_PARAMS, "invalid_params", message, "export it as json, the default of --format")
