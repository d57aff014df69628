"""The command `walrusctl session search`: full-text search in the messages of all sessions."""

import os
import re
import sys

import click

from walrus_protocol.client import Json
from walrusctl.click_base import LIMIT, command
from walrusctl.context import CliContext
from walrusctl.formatting import format_table, format_time
from walrusctl.output import print_answer, print_json, print_note, terminal_width, write_stdout
from walrusctl.pagination import fetch_pages

_MARK_START, _MARK_END = "\ufdd0", "\ufdd1"
"""Marks around a match until the line is formatted; Unicode noncharacters, which no text uses."""
_MARKED_TEXT = re.compile(f"{_MARK_START}([^{_MARK_START}{_MARK_END}]*){_MARK_END}")
_BOLD = "\x1b[1m\\1\x1b[0m"
_MAX_QUERY = 1024
"""Maximum characters of a query; the limit of the protocol."""
_MIN_SNIPPET_WIDTH = 20
"""Minimum characters of a snippet, however narrow the terminal is."""


@command("walrusctl session search shopping list", "walrusctl session search '\"exact phrase\" begin*'")
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=LIMIT, metavar="N", default=50, show_default=True, help="At most N results.")
def search(ctx: CliContext, words: tuple[str, ...], limit: int) -> None:
    """Find messages that contain all WORDS, newest first.

    Case, accents and order do not matter. '"two words"' matches them as a phrase; begin* matches every word with that
    beginning. Output of tools is not searched. If nothing is found, stderr has a note and the exit status is 0.
    """
    query = " ".join(words)
    if len(query) > _MAX_QUERY:
        raise click.UsageError(f"WORDS have {len(query):,} characters; at most {_MAX_QUERY:,} are allowed")
    hits, cursor = fetch_pages(ctx, "session.search", "hits", {"query": query}, limit)
    if ctx.json:
        print_json({"hits": hits, "cursor": cursor})
        return
    if sys.stdout.isatty():
        width = _snippet_width(hits, terminal_width(sys.stdout))
        table = _format_hits([{**hit, "snippet": _insert_marks(crop_snippet(hit, width))} for hit in hits])
        bold = r"\1" if os.environ.get("NO_COLOR") else _BOLD
        write_stdout(re.sub(f"[{_MARK_START}{_MARK_END}]", "", _MARKED_TEXT.sub(bold, table)) + "\n")
    else:
        print_answer(_format_hits(hits))
    if not hits:
        print_note("no matches")
    if cursor:
        print_note("there are more: raise --limit")


def _format_hits(hits: list[Json]) -> str:
    rows = [
        (hit["session"], hit["seq"], hit["agent"], format_time(hit["ts"]), hit["role"], hit["snippet"]) for hit in hits
    ]
    return format_table(("SESSION", "SEQ", "AGENT", "TIME", "BY", "TEXT"), rows)


def _snippet_width(hits: list[Json], columns: int | None) -> int:
    """Returns the characters left for a snippet after the other columns."""
    if columns is None:
        return sys.maxsize
    headers = _format_hits([{**hit, "snippet": ""} for hit in hits]).partition("\n")[0]
    return max(columns - len(headers.removesuffix("TEXT")), _MIN_SNIPPET_WIDTH)


def crop_snippet(hit: Json, max_chars: int) -> Json:
    """Returns the hit with its snippet cut to `max_chars`, so that the first match stays visible."""
    text, marks = hit["snippet"], hit["marks"]
    if len(text) <= max_chars:
        return hit
    start = marks[0]["start"] if marks else 0
    begin = 0 if start <= max_chars // 2 else min(start - max_chars // 3, len(text) - max_chars)
    end = begin + max_chars
    head, tail = "…" if begin else "", "…" if end < len(text) else ""
    visible = [
        {"start": max(mark["start"] - begin, len(head)), "end": min(mark["end"] - begin, max_chars - len(tail))}
        for mark in marks
        if mark["start"] < end - len(tail) and mark["end"] > begin + len(head)
    ]
    return {**hit, "snippet": f"{head}{text[begin + len(head) : end - len(tail)]}{tail}", "marks": visible}


def _insert_marks(hit: Json) -> str:
    """Returns the snippet with marks around its matches, and without any other marks."""
    text = hit["snippet"].replace(_MARK_START, " ").replace(_MARK_END, " ")
    for mark in reversed(hit["marks"]):
        start, end = mark["start"], mark["end"]
        text = f"{text[:start]}{_MARK_START}{text[start:end]}{_MARK_END}{text[end:]}"
    return str(text)
