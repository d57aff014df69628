"""Human output: tables, fields, and the line that says what an event was. Pure: texts in, texts out."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from walrus_protocol.client import Json
from walrusctl.hint_wording import as_cli_options
from walrusctl.sanitize import to_single_line

_MAX_LINE = 200
"""Characters of a tool's arguments or output that a line shows; `--json` shows all."""
TRUNCATED_MARK = " (cut off)"
"""Behind an answer that was interrupted, or ended by the most that may be said."""
_MIN_WRAP_WIDTH = 20
"""Characters that a wrapped line has at least, however narrow the terminal."""


def format_table(headers: Sequence[str], rows: Iterable[Sequence[object]], width: int | None = None) -> str:
    """Columns as wide as they need, the last one open; nothing but the heads where there are no rows.

    Lines longer than `width` are cut: what need not be read whole stands last.
    """
    lines = [[*headers], *([to_short_line(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ("  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(truncate(line, width or len(line)) for line in shown)


def format_fields(pairs: Iterable[tuple[str, object]], width: int | None = None) -> str:
    """A name and a value a line; what is empty is left out."""
    words = {True: "yes", False: "no"}
    shown = [
        (name, words[value] if isinstance(value, bool) else to_single_line(str(value)))
        for name, value in pairs
        if value not in (None, "", [], {})
    ]
    size = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(size)}  {wrap_text(value, width, size + 2)}" for name, value in shown)


def wrap_text(text: str, width: int | None, indent: int) -> str:
    """Text that begins in column `indent`, and goes on there in its further lines. No word is broken: it may be a path.

    As it is where no width is known.
    """
    if width is None or indent + len(text) <= width:
        return text
    from textwrap import wrap

    room = max(width - indent, _MIN_WRAP_WIDTH)
    return f"\n{'':{indent}}".join(wrap(text, room, break_long_words=False, break_on_hyphens=False))


def format_time(ts: float) -> str:
    return datetime.fromtimestamp(ts).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_time_short(ts: float, now: float) -> str:
    """As `when`, without the date where that is today's."""
    day, clock = format_time(ts).split()
    return clock if format_time(now).startswith(day) else f"{day} {clock}"


def truncate(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def to_short_line(text: str) -> str:
    """The text in one line, cut where it is long."""
    return truncate(to_single_line(text), _MAX_LINE + 1)


def format_count(number: int, noun: str) -> str:
    """So many of what has an s where it is not one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(byte_count: float) -> str:
    """In the unit that leaves at most three digits before the point."""
    if byte_count < 1000:
        return format_count(round(byte_count), "byte")
    for unit in ("kB", "MB"):
        byte_count /= 1000
        if byte_count < 999.95:
            return f"{byte_count:.1f} {unit}"
    return f"{byte_count / 1000:,.1f} GB"


def format_duration(seconds: float) -> str:
    """A length of time in the largest unit that it has one of."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{seconds / length:g} {unit}{'' if seconds == length else 's'}"
    return f"{seconds:g} second{'' if seconds == 1 else 's'}"


def format_cost(cost_usd: float | None) -> str:
    return "cost unknown" if cost_usd is None else f"${cost_usd:.4f}"


def format_content(content: object) -> str:
    """The text of a message's content; of its other parts, what they are."""
    if not isinstance(content, list):
        return str(content)
    return "\n".join(part["text"] if part.get("type") == "text" else f"[{part.get('type')}]" for part in content)


def format_message(body: Json) -> str:
    """A message of a history."""
    if body["role"] == "tool":
        return f"tool {body['name']}: {body['output']}"
    asked = "".join(f"\n  {format_call(call)}" for call in body.get("calls", ()))
    text = format_content(body.get("content", ""))
    return f"{body['role']}:{text and ' '}{text}{asked}"


def is_truncated(event: Json) -> bool:
    """Whether it is an answer that is not whole."""
    return event.get("type") == "assistant_message" and event.get("finish") in ("interrupted", "length")


def format_call(call: Json) -> str:
    return f"→ {call['name']} {to_short_line(json.dumps(call['arguments'], ensure_ascii=False))}"


def format_event(event: Json) -> str:
    """What an event was; "" for the text of the conversation itself, and for what a person needs no word of."""
    kind = event.get("type", "")
    said = _EVENT_FORMATTERS.get(kind)
    return said(event) if said else f"({kind})"


def _format_created(event: Json) -> str:
    parent = event.get("parent")
    forked = f", forked from session {parent['session']} at seq {parent['seq']}" if parent else ""
    return f"session {event['session']} of agent {event['agent']} created{forked}"


def _format_result(event: Json) -> str:
    outcome = event.get("outcome", "ok")
    took = f"{event.get('bytes', 0):,} bytes, {event.get('duration_ms', 0)} ms"
    ref = event.get("ref")
    whole = f"\n  more of it: walrusctl tool output {event['session']} {ref}" if ref else ""
    if not event.get("is_error"):
        return f"← {event['name']} {outcome}, {took}{whole}"
    gate = event.get("gate")
    by = f" by {gate}" if gate not in (None, "execute") else ""  # what failed at work was refused by nobody
    return (
        f"← {event['name']} {'failed' if outcome == 'error' else outcome}{by}: {to_short_line(event['output'])}{whole}"
    )


def _format_done(event: Json) -> str:
    usage = event.get("usage", {})
    tokens = f"{usage.get('input', 0)} tokens in, {usage.get('output', 0)} out"
    took = f"{event.get('duration_ms', 0) / 1000:.1f} s"
    cost = format_cost(event.get("cost_usd"))
    rounds = format_count(event.get("rounds", 0), "round")
    line = f"done: {event['stop_reason']}, {rounds}, {tokens}, {cost}, {took}"
    error = event.get("error")
    return f"{line}\n{format_error(error)}" if error else line


def format_error(error: Json) -> str:
    """What a turn failed with, and below it what to do."""
    hint = error.get("hint")
    below = f"\n  hint: {to_short_line(as_cli_options(hint))}" if hint else ""
    return f"{error['kind']}: {to_short_line(error['message'])}{below}"


_EVENT_FORMATTERS: dict[str, Callable[[Json], str]] = {
    "session_created": _format_created,
    "message_queued": lambda event: f"queued at position {event['position']}: the session is busy",
    "tool_calls_start": lambda event: "\n".join(map(format_call, event["calls"])),
    "tool_result": _format_result,
    "interrupt_requested": lambda event: f"interrupt requested ({event['reason']})",
    "turn_resumed": lambda event: f"turn resumed after a {event['reason']}, attempt {event['attempt']}",
    "checkpoint_created": lambda event: f"checkpoint {to_short_line(event['name'])} at seq {event['at']}",
    "rewound": lambda event: f"rewound to seq {event['to']}",
    "lagged": lambda event: f"({event['dropped']} pieces of text came too fast; the whole message follows)",
    "done": _format_done,
    "session_closed": lambda _: "session closed",
    **dict.fromkeys(
        (
            "user_message",
            "text_delta",
            "thinking_delta",
            "assistant_message",
            "tool_started",
            "tool_output",
            "tool_calls_complete",
            "state_changed",
        ),
        lambda _: "",
    ),
}
