"""walrusctl session search: what was said, in whichever session."""

import os
import re
import sys

import click

from walrus_protocol.client import Json
from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import note, say, say_json, width, write
from walrusctl.paging import paged
from walrusctl.render import table, when

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Around what was found, until the line is made: no text means anything by these two."""
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")
_BOLD = "\x1b[1m\\1\x1b[0m"
_LONGEST = 1024
"""Characters of a query."""
_NARROWEST = 20
"""Characters of a text that are shown however narrow the terminal is."""


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common_options
@pass_invocation
def search(asked: Invocation, words: tuple[str, ...], limit: int) -> None:
    """Find where people and models have said all of WORDS, the newest first.

    Case, accents and order do not count. '"two words"' stand in a row; begin* is every word that begins so. What tools
    gave out is not searched. Where nothing is found, stderr says so, and it exits with 0.
    """
    query = " ".join(words)
    if len(query) > _LONGEST:
        raise click.UsageError(f"WORDS have {len(query):,} characters, and at most {_LONGEST:,} are searched for")
    hits, cursor = paged(asked, "session.search", "hits", {"query": query}, limit)
    if asked.json:
        say_json({"hits": hits, "cursor": cursor})
        return
    if sys.stdout.isatty():
        room = _room(hits, width(sys.stdout))
        shown = _listed([{**hit, "snippet": _between_marks(around_mark(hit, room))} for hit in hits])
        bold = r"\1" if os.environ.get("NO_COLOR") else _BOLD
        write(re.sub(f"[{_OPEN}{_CLOSE}]", "", _MARKED.sub(bold, shown)) + "\n")
    else:
        say(_listed(hits))
    if not hits:
        note("nothing was found")
    if cursor:
        note("there are more: raise --limit")


def _listed(hits: list[Json]) -> str:
    rows = [(hit["session"], hit["seq"], hit["agent"], when(hit["ts"]), hit["role"], hit["snippet"]) for hit in hits]
    return table(("SESSION", "SEQ", "AGENT", "SAID", "BY", "TEXT"), rows)


def _room(hits: list[Json], columns: int | None) -> int:
    """Characters that a snippet may have beside what stands before it."""
    if columns is None:
        return sys.maxsize
    heads = _listed([{**hit, "snippet": ""} for hit in hits]).partition("\n")[0]
    return max(columns - len(heads.removesuffix("TEXT")), _NARROWEST)


def around_mark(hit: Json, room: int) -> Json:
    """The hit with no more of its snippet than there is room for, and what was found first in that."""
    text, marks = hit["snippet"], hit["marks"]
    if len(text) <= room:
        return hit
    start = marks[0]["start"] if marks else 0
    begin = 0 if start <= room // 2 else min(start - room // 3, len(text) - room)
    end = begin + room
    head, tail = "…" if begin else "", "…" if end < len(text) else ""
    kept = [
        {"start": max(mark["start"] - begin, len(head)), "end": min(mark["end"] - begin, room - len(tail))}
        for mark in marks
        if mark["start"] < end - len(tail) and mark["end"] > begin + len(head)
    ]
    return {**hit, "snippet": f"{head}{text[begin + len(head) : end - len(tail)]}{tail}", "marks": kept}


def _between_marks(hit: Json) -> str:
    """The snippet with signs around what was found, and none but these."""
    text = hit["snippet"].replace(_OPEN, " ").replace(_CLOSE, " ")
    for mark in reversed(hit["marks"]):
        start, end = mark["start"], mark["end"]
        text = f"{text[:start]}{_OPEN}{text[start:end]}{_CLOSE}{text[end:]}"
    return str(text)
