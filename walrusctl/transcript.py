"""An exported document for people and for line-wise tools: Markdown, and one event a line. Texts in, texts out.

It is read piece by piece, and shown as it comes.
"""

import json
import re
from collections.abc import Callable, Iterator

from walrus_protocol.client import Json
from walrus_protocol.cutting import Cutter
from walrusctl.clean import clean, flat
from walrusctl.render import CUT_OFF, event_line, is_cut_off, plain, when

_FENCE = re.compile("`{3,}")


def lines(read: Callable[[], str]) -> Iterator[str]:
    """Each event as it stands in the document, inherited ones first. Raises Malformed."""
    for text in _pieces(Cutter(read)):
        if isinstance(text, str):
            yield text + "\n"


def markdown(read: Callable[[], str]) -> Iterator[str]:
    """The conversation, inherited first. No escape sequence of what was said is left. Raises Malformed."""
    for piece in _pieces(Cutter(read)):
        yield clean(_head(piece) if isinstance(piece, dict) else _part(json.loads(piece)))


def _pieces(cutter: Cutter) -> Iterator[Json | str]:
    """What is said of the session, and the text of each event."""
    for name in cutter.members():
        if name == "session":
            yield json.loads(cutter.value())
        elif name == "ancestors":
            for _ in cutter.elements():
                for inner in cutter.members():
                    yield from _events(cutter) if inner == "events" else _skipped(cutter)
        elif name == "events":
            yield from _events(cutter)
        else:
            yield from _skipped(cutter)
    cutter.end()


def _events(cutter: Cutter) -> Iterator[str]:
    return (cutter.value() for _ in cutter.elements())


def _skipped(cutter: Cutter) -> Iterator[str]:
    cutter.value()
    return iter(())


def _head(session: Json) -> str:
    title = flat(session["title"]) or f"Session {session['id']}"
    by = flat(session["created_by"])
    made = f"Session {session['id']} of agent {flat(session['agent'])}, made {when(session['created_at'])}"
    left_out = session.get("turn_left_out")
    running = f" Turn {left_out} was under way, and is left out." if left_out else ""
    return f"# {title}\n\n*{made}{f' by {by}' if by else ''}.{running}*\n"


def _part(event: Json) -> str:
    kind = event["type"]
    if kind == "user_message":
        of_kind = "" if event.get("kind") == "message" else f" ({event.get('kind')})"
        return _headed(f"{flat(event.get('sender') or '') or 'User'}{of_kind}", event)
    if kind == "assistant_message":
        return _headed("Assistant", event) if plain(event["content"]).strip() else ""
    if kind == "tool_calls_start":
        return "".join(_call(call) for call in event["calls"])
    if kind == "tool_result":
        outcome = event.get("outcome", "ok")
        return f"\n*← {flat(event['name'])}: {outcome}*\n\n{_fenced(event['output'])}"
    if kind == "session_created" and not event.get("parent"):
        return ""  # the head has said it
    if kind == "done" and event["stop_reason"] == "text_response":
        return ""
    said = flat(event_line(event)).replace("*", "\\*")
    return f"\n*{said}*\n" if said else ""


def _headed(who: str, event: Json) -> str:
    cut_off = CUT_OFF if is_cut_off(event) else ""
    return f"\n## {who}, {when(event['ts'])}{cut_off}\n\n{_quoted(plain(event['content']).strip())}\n"


def _quoted(text: str) -> str:
    """As it was said, with headings and fences of its own that end with it."""
    return "\n".join(f"> {line}" if line else ">" for line in clean(text).split("\n"))


def _call(call: Json) -> str:
    arguments = call["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, indent=2)
    return f"\n*→ {flat(call['name'])}*\n\n{_fenced(text, 'json')}"


def _fenced(text: str, language: str = "") -> str:
    text = clean(text).rstrip()
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
