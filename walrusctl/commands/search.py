"""walrusctl session search: what was said, in whichever session."""

import os
import re
import sys

import click

from walrus_protocol.client import Json
from walrusctl.click_base import common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.formatting import format_table, format_time
from walrusctl.output import print_answer, print_json, print_note, terminal_width, write_stdout
from walrusctl.pagination import fetch_pages

_MARK_START, _MARK_END = "\ufdd0", "\ufdd1"
"""Around what was found, until the line is made: no text means anything by these two."""
_MARKED_TEXT = re.compile(f"{_MARK_START}([^{_MARK_START}{_MARK_END}]*){_MARK_END}")
_BOLD = "\x1b[1m\\1\x1b[0m"
_MAX_QUERY = 1024
"""Characters of a query."""
_MIN_SNIPPET_WIDTH = 20
"""Characters of a text that are shown however narrow the terminal is."""


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@common_options
@pass_cli_context
def search(ctx: CliContext, words: tuple[str, ...], limit: int) -> None:
    """Find where people and models have said all of WORDS, the newest first.

    Case, accents and order do not count. '"two words"' stand in a row; begin* is every word that begins so. What tools
    gave out is not searched. Where nothing is found, stderr says so, and it exits with 0.
    """
    query = " ".join(words)
    if len(query) > _MAX_QUERY:
        raise click.UsageError(f"WORDS have {len(query):,} characters, and at most {_MAX_QUERY:,} are searched for")
    hits, cursor = fetch_pages(ctx, "session.search", "hits", {"query": query}, limit)
    if ctx.json:
        print_json({"hits": hits, "cursor": cursor})
        return
    if sys.stdout.isatty():
        room = _snippet_width(hits, terminal_width(sys.stdout))
        shown = _format_hits([{**hit, "snippet": _insert_marks(crop_snippet(hit, room))} for hit in hits])
        bold = r"\1" if os.environ.get("NO_COLOR") else _BOLD
        write_stdout(re.sub(f"[{_MARK_START}{_MARK_END}]", "", _MARKED_TEXT.sub(bold, shown)) + "\n")
    else:
        print_answer(_format_hits(hits))
    if not hits:
        print_note("nothing was found")
    if cursor:
        print_note("there are more: raise --limit")


def _format_hits(hits: list[Json]) -> str:
    rows = [
        (hit["session"], hit["seq"], hit["agent"], format_time(hit["ts"]), hit["role"], hit["snippet"]) for hit in hits
    ]
    return format_table(("SESSION", "SEQ", "AGENT", "SAID", "BY", "TEXT"), rows)


def _snippet_width(hits: list[Json], columns: int | None) -> int:
    """Characters that a snippet may have beside what stands before it."""
    if columns is None:
        return sys.maxsize
    heads = _format_hits([{**hit, "snippet": ""} for hit in hits]).partition("\n")[0]
    return max(columns - len(heads.removesuffix("TEXT")), _MIN_SNIPPET_WIDTH)


def crop_snippet(hit: Json, max_chars: int) -> Json:
    """The hit with no more of its snippet than there is room for, and what was found first in that."""
    text, marks = hit["snippet"], hit["marks"]
    if len(text) <= max_chars:
        return hit
    start = marks[0]["start"] if marks else 0
    begin = 0 if start <= max_chars // 2 else min(start - max_chars // 3, len(text) - max_chars)
    end = begin + max_chars
    head, tail = "…" if begin else "", "…" if end < len(text) else ""
    kept = [
        {"start": max(mark["start"] - begin, len(head)), "end": min(mark["end"] - begin, max_chars - len(tail))}
        for mark in marks
        if mark["start"] < end - len(tail) and mark["end"] > begin + len(head)
    ]
    return {**hit, "snippet": f"{head}{text[begin + len(head) : end - len(tail)]}{tail}", "marks": kept}


def _insert_marks(hit: Json) -> str:
    """The snippet with signs around what was found, and none but these."""
    text = hit["snippet"].replace(_MARK_START, " ").replace(_MARK_END, " ")
    for mark in reversed(hit["marks"]):
        start, end = mark["start"], mark["end"]
        text = f"{text[:start]}{_MARK_START}{text[start:end]}{_MARK_END}{text[end:]}"
    return str(text)
