"""Converts an exported session to Markdown for people, or to JSON lines with one event each.

The document is read and converted piece by piece.
"""

import json
import re
from collections.abc import Callable, Iterator

from walrus_protocol.client import Json
from walrus_protocol.json_reader import JsonReader
from walrusctl.formatting import TRUNCATED_MARK, format_content, format_event, format_time, is_truncated
from walrusctl.sanitize import sanitize, to_single_line

_FENCE = re.compile("`{3,}")


def iter_jsonl(read: Callable[[], str]) -> Iterator[str]:
    """Yields each event as one line of JSON, inherited events first. Raises MalformedJson."""
    for text in _document_parts(JsonReader(read)):
        if isinstance(text, str):
            yield text + "\n"


def iter_markdown(read: Callable[[], str]) -> Iterator[str]:
    """Yields the conversation as Markdown without escape sequences. Raises MalformedJson."""
    for piece in _document_parts(JsonReader(read)):
        yield sanitize(_format_header(piece) if isinstance(piece, dict) else _format_event(json.loads(piece)))


def _document_parts(reader: JsonReader) -> Iterator[Json | str]:
    """Yields the session's description as a dict, then each event as JSON text."""
    for name in reader.members():
        if name == "session":
            yield json.loads(reader.read_value())
        elif name == "ancestors":
            for _ in reader.elements():
                for inner in reader.members():
                    yield from _read_events(reader) if inner == "events" else _skip_value(reader)
        elif name == "events":
            yield from _read_events(reader)
        else:
            yield from _skip_value(reader)
    reader.expect_end()


def _read_events(reader: JsonReader) -> Iterator[str]:
    return (reader.read_value() for _ in reader.elements())


def _skip_value(reader: JsonReader) -> Iterator[str]:
    reader.read_value()
    return iter(())


def _format_header(session: Json) -> str:
    title = to_single_line(session["title"]) or f"Session {session['id']}"
    by = to_single_line(session["created_by"])
    agent, created = to_single_line(session["agent"]), format_time(session["created_at"])
    origin = f"Session {session['id']} of agent {agent}, created {created}"
    left_out = session.get("turn_left_out")
    running = f" Turn {left_out} was still running and is left out." if left_out else ""
    return f"# {title}\n\n*{origin}{f' by {by}' if by else ''}.{running}*\n"


def _format_event(event: Json) -> str:
    kind = event["type"]
    if kind == "user_message":
        of_kind = "" if event.get("kind") == "message" else f" ({event.get('kind')})"
        return _format_section(f"{to_single_line(event.get('sender') or '') or 'User'}{of_kind}", event)
    if kind == "assistant_message":
        return _format_section("Assistant", event) if format_content(event["content"]).strip() else ""
    if kind == "tool_calls_start":
        return "".join(_format_tool_call(call) for call in event["calls"])
    if kind == "tool_result":
        outcome = event.get("outcome", "ok")
        return f"\n*← {to_single_line(event['name'])}: {outcome}*\n\n{_fence(event['output'])}"
    if kind == "session_created" and not event.get("parent"):
        return ""  # the header has this information
    if kind == "done" and event["stop_reason"] == "text_response":
        return ""
    line = to_single_line(format_event(event)).replace("*", "\\*")
    return f"\n*{line}*\n" if line else ""


def _format_section(author: str, event: Json) -> str:
    cut_off = TRUNCATED_MARK if is_truncated(event) else ""
    return f"\n## {author}, {format_time(event['ts'])}{cut_off}\n\n{_quote(format_content(event['content']).strip())}\n"


def _quote(text: str) -> str:
    """Quotes a text, so that its headings and code fences do not affect the rest of the document."""
    return "\n".join(f"> {line}" if line else ">" for line in sanitize(text).split("\n"))


def _format_tool_call(call: Json) -> str:
    arguments = call["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, indent=2)
    return f"\n*→ {to_single_line(call['name'])}*\n\n{_fence(text, 'json')}"


def _fence(text: str, language: str = "") -> str:
    text = sanitize(text).rstrip()
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
