"""Reads the TEXT of a message from the argument or stdin, and checks it before anything is sent."""

import json
import sys

import click

from walrus_protocol import wire


def read_text(argument: str | None) -> str:
    """Returns the argument, or stdin for `-` or if there is no argument and stdin is not a terminal.

    Raises click.UsageError for a text that is missing, empty, too long or not UTF-8.
    """
    text = _read_stdin(argument) if argument in (None, "-") else argument
    assert text is not None, "None is read from stdin"
    if not text:
        raise click.UsageError("TEXT is empty")
    try:
        # The exact size is computed only if the worst case, six bytes a character, could exceed the limit.
        size = len(text) if len(text) * 6 <= wire.MAX_MESSAGE else len(json.dumps(text, ensure_ascii=False).encode())
        text.encode()
    except UnicodeEncodeError:
        raise click.UsageError("TEXT contains bytes that are not UTF-8") from None
    if size > wire.MAX_MESSAGE:
        raise click.UsageError(f"TEXT is {size:,} bytes as JSON; a message may have at most {wire.MAX_MESSAGE:,}")
    return text


def _read_stdin(argument: str | None) -> str:
    if argument is None and sys.stdin.isatty():
        raise click.UsageError("TEXT is missing; give it as an argument or pipe it in")
    data = sys.stdin.buffer.read(wire.MAX_MESSAGE + 1)
    if len(data) > wire.MAX_MESSAGE:
        raise click.UsageError(f"stdin has more than {wire.MAX_MESSAGE:,} bytes, the most that a message may have")
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise click.UsageError("stdin contains bytes that are not UTF-8") from None
