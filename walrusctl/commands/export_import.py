"""The commands `walrusctl session export` and `import`: a session to a file, and a file to a session."""

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
from walrusctl.click_base import SESSION, command
from walrusctl.context import CliContext
from walrusctl.formatting import format_count
from walrusctl.output import StreamPrinter, print_error, print_json, print_note
from walrusctl.transcript import iter_jsonl, iter_markdown

_TRANSFER_TIMEOUT_S = 3600
"""Seconds for the transfer of a large document; no turn waits for it."""
_PART_BYTES = 512 * 1024
"""Bytes of a document in one request."""
_JSONL_START = re.compile(rb'\{\s*"(seq|type|offset)"')
"""The beginning of a line of the jsonl format."""


@command("walrusctl session export 3 -o session.json", "walrusctl session export 3 --format markdown > session.md")
@click.argument("session", type=SESSION)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "jsonl", "markdown"]),
    default="json",
    show_default=True,
    help="json is for `session import`, jsonl has one event per line, markdown is for people.",
)
@click.option(
    "-o", "--output", "path", metavar="FILE", default="-", help="Write to FILE, completely or not at all. [stdout]"
)
def export(ctx: CliContext, session: int, form: str, path: str) -> None:
    """Export SESSION as one document.

    The document includes the events that a fork inherits. A running turn is left out. SESSION may be closed.
    """
    if not path:
        raise click.UsageError("-o is empty; give a file name, or - for stdout")
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
            print_error(f"cannot write {path}: {error.strerror}", "choose another file, or free disk space")
            raise click.exceptions.Exit(wire.EXIT_INTERNAL) from None
    _note_if_too_large(document.result)
    result = {**document.result, "file": path}
    if ctx.json:
        print_json(result)
    else:
        print_note(
            f"{format_count(result['events'], 'event')}, {result['bytes']:,} bytes of JSON, written to {path} as {form}"
        )


def _note_if_too_large(exported: Json) -> None:
    if exported["bytes"] > wire.MAX_DOCUMENT:
        print_note(
            f"too large to import: the limit is {wire.MAX_DOCUMENT:,} bytes; a fork at an earlier point is smaller"
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
        print_error(
            f"walrusd sent an invalid document: {malformed}", "check that walrusctl and walrusd have the same version"
        )
        raise click.exceptions.Exit(wire.EXIT_INTERNAL) from None


@command("walrusctl session import session.json", "walrusctl session export 3 | walrusctl session import -")
@click.argument("file", type=click.File("rb"))
def import_(ctx: CliContext, file: BinaryIO) -> None:
    """Create a session from an exported one; print its id.

    FILE is what `session export` wrote as json, or - for stdin. The new session has the history and the idempotency
    keys of the exported one, and is independent of it.
    """
    if file.isatty():
        print_note("waiting for a document on stdin; end it with Ctrl-D")
    imported: Json = {}
    with ctx.connect(_TRANSFER_TIMEOUT_S) as client:
        for data, last in _read_parts(file):
            imported = client.call("session.import", {"data": data, "last": last})
    ctx.print_result(imported, str(imported["session"]), *imported["warnings"])


def _read_parts(file: BinaryIO) -> Iterator[tuple[str, bool]]:
    """Yields the document in parts, each with whether it is the last.

    Raises RequestFailed for a file that is visibly not an exported session.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    data = file.read(_PART_BYTES)
    if problem := _detect_wrong_format(data):
        raise _invalid_document(problem)
    while True:
        # A short part is the last one; another read would need a second Ctrl-D on a terminal.
        more = file.read(_PART_BYTES) if len(data) == _PART_BYTES else b""
        try:
            text = decoder.decode(data, final=not more)
        except UnicodeDecodeError:
            raise _invalid_document("it contains bytes that are not UTF-8") from None
        yield text, not more
        if not more:
            return
        data = more


def _detect_wrong_format(beginning: bytes) -> str:
    """Returns what is wrong with a document that begins like this; "" if nothing is visible."""
    first, _, _ = beginning.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    if not first:
        return "it is empty"
    if first.startswith(b"#"):
        return "it looks like --format markdown, which is for people"
    if _JSONL_START.match(first):
        return "it looks like --format jsonl, which has only the events"
    return ""


def _invalid_document(reason: str) -> RequestFailed:
    message = f"this is not an exported session: {reason}"
    return RequestFailed(wire.INVALID_PARAMS, "invalid_params", message, "export it as json, the default of --format")
