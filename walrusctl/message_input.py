"""TEXT: the argument itself, or stdin for `-` and where stdin is no terminal. Checked before anything is sent."""

import json
import sys

import click

from walrus_protocol import wire


def read_text(argument: str | None) -> str:
    """Raises click.UsageError for no text, too much of it, and bytes that are no text."""
    text = _read_stdin(argument) if argument in (None, "-") else argument
    assert text is not None, "None is read from stdin"
    if not text:
        raise click.UsageError("TEXT is empty")
    try:
        # The worst case, six bytes a character, is only worked out where it could matter.
        size = len(text) if len(text) * 6 <= wire.MAX_MESSAGE else len(json.dumps(text, ensure_ascii=False).encode())
        text.encode()
    except UnicodeEncodeError:
        raise click.UsageError("TEXT holds bytes that are no UTF-8") from None
    if size > wire.MAX_MESSAGE:
        raise click.UsageError(f"TEXT takes {size:,} bytes as JSON; a message has at most {wire.MAX_MESSAGE:,}")
    return text


def _read_stdin(argument: str | None) -> str:
    if argument is None and sys.stdin.isatty():
        raise click.UsageError("TEXT is missing; give it, or pipe it in")
    data = sys.stdin.buffer.read(wire.MAX_MESSAGE + 1)
    if len(data) > wire.MAX_MESSAGE:
        raise click.UsageError(f"stdin holds more than the {wire.MAX_MESSAGE:,} bytes that a message may have")
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise click.UsageError("stdin holds bytes that are no UTF-8") from None
