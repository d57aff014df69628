"""walrusctl session search: what was said, in whichever session."""

import os
import re
import sys

import click

from walrus_protocol.client import Json
from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import note, say, say_json, write
from walrusctl.paging import paged
from walrusctl.render import table, when

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Around what was found, until the line is made: no text means anything by these two."""
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")
_BOLD = "\x1b[1m\\1\x1b[0m"


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common_options
@pass_invocation
def search(asked: Invocation, words: tuple[str, ...], limit: int) -> None:
    """Find where people and models have said all of WORDS, the newest first.

    Case, accents and order do not count. '"two words"' stand in a row; begin* is every word that begins so. What tools
    gave out is not searched.
    """
    hits, cursor = paged(asked, "session.search", "hits", {"query": " ".join(words)}, limit)
    if asked.json:
        say_json({"hits": hits, "cursor": cursor})
        return
    if sys.stdout.isatty():
        shown = _listed([{**hit, "snippet": _between_marks(hit)} for hit in hits])
        bold = r"\1" if os.environ.get("NO_COLOR") else _BOLD
        write(re.sub(f"[{_OPEN}{_CLOSE}]", "", _MARKED.sub(bold, shown)) + "\n")
    else:
        say(_listed(hits))
    if cursor:
        note("there are more: raise --limit")


def _listed(hits: list[Json]) -> str:
    rows = [(hit["session"], hit["seq"], hit["agent"], when(hit["ts"]), hit["role"], hit["snippet"]) for hit in hits]
    return table(("SESSION", "SEQ", "AGENT", "SAID", "BY", "TEXT"), rows)


def _between_marks(hit: Json) -> str:
    """The snippet with signs around what was found, and none but these."""
    text = hit["snippet"].replace(_OPEN, " ").replace(_CLOSE, " ")
    for mark in reversed(hit["marks"]):
        start, end = mark["start"], mark["end"]
        text = f"{text[:start]}{_OPEN}{text[start:end]}{_CLOSE}{text[end:]}"
    return str(text)
