"""Formats output for people: tables, fields, quantities, and one line for each event. Pure functions."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from walrus_protocol.client import Json
from walrusctl.hint_wording import as_cli_options
from walrusctl.sanitize import to_single_line

_MAX_LINE = 200
"""Maximum characters of a tool's arguments or output in one line; `--json` shows all."""
TRUNCATED_MARK = " (cut off)"
"""Suffix of an answer that was interrupted, or that reached the model's output limit."""
_MIN_WRAP_WIDTH = 20
"""Minimum characters of a wrapped line, however narrow the terminal is."""


def format_table(headers: Sequence[str], rows: Iterable[Sequence[object]], width: int | None = None) -> str:
    """Returns a table with columns as wide as their longest cell; without rows, only the headers.

    Lines longer than `width` are cut, so the column that matters least should be the last.
    """
    lines = [[*headers], *([to_short_line(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(truncate(line, width or len(line)) for line in padded)


def format_fields(pairs: Iterable[tuple[str, object]], width: int | None = None) -> str:
    """Returns one line for each name and value; pairs with an empty value are left out."""
    words = {True: "yes", False: "no"}
    fields = [
        (name, words[value] if isinstance(value, bool) else to_single_line(str(value)))
        for name, value in pairs
        if value not in (None, "", [], {})
    ]
    size = max((len(name) for name, _ in fields), default=0)
    return "\n".join(f"{name.ljust(size)}  {wrap_text(value, width, size + 2)}" for name, value in fields)


def wrap_text(text: str, width: int | None, indent: int) -> str:
    """Wraps text that begins in column `indent`, and indents its further lines by as much.

    Words are never broken, since they may be paths. If `width` is None the text is returned unchanged.
    """
    if width is None or indent + len(text) <= width:
        return text
    from textwrap import wrap

    columns = max(width - indent, _MIN_WRAP_WIDTH)
    return f"\n{'':{indent}}".join(wrap(text, columns, break_long_words=False, break_on_hyphens=False))


def format_time(ts: float) -> str:
    return datetime.fromtimestamp(ts).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_time_short(ts: float, now: float) -> str:
    """Formats like `format_time`, but without the date if it is today."""
    day, clock = format_time(ts).split()
    return clock if format_time(now).startswith(day) else f"{day} {clock}"


def truncate(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def to_short_line(text: str) -> str:
    """Returns the text in one line, cut at _MAX_LINE characters."""
    return truncate(to_single_line(text), _MAX_LINE + 1)


def format_count(number: int, noun: str) -> str:
    """Returns the number and the noun, with a plural s unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(byte_count: float) -> str:
    """Formats a size in the unit that leaves at most three digits before the point, up to GB."""
    if byte_count < 1000:
        return format_count(round(byte_count), "byte")
    for unit in ("kB", "MB"):
        byte_count /= 1000
        if byte_count < 999.95:
            return f"{byte_count:.1f} {unit}"
    return f"{byte_count / 1000:,.1f} GB"


def format_duration(seconds: float) -> str:
    """Formats a duration in the largest unit that it is at least one of."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{seconds / length:g} {unit}{'' if seconds == length else 's'}"
    return f"{seconds:g} second{'' if seconds == 1 else 's'}"


def format_cost(cost_usd: float | None) -> str:
    return "cost unknown" if cost_usd is None else f"${cost_usd:.4f}"


def format_content(content: object) -> str:
    """Returns the text of a message's content; parts that are not text appear as their type in brackets."""
    if not isinstance(content, list):
        return str(content)
    return "\n".join(part["text"] if part.get("type") == "text" else f"[{part.get('type')}]" for part in content)


def format_message(body: Json) -> str:
    """Formats one message of `session.history`, with the tool calls it requests."""
    if body["role"] == "tool":
        return f"tool {body['name']}: {body['output']}"
    calls = "".join(f"\n  {format_call(call)}" for call in body.get("calls", ()))
    text = format_content(body.get("content", ""))
    return f"{body['role']}:{text and ' '}{text}{calls}"


def is_truncated(event: Json) -> bool:
    """Whether the event is an assistant message that was interrupted or reached the output limit."""
    return event.get("type") == "assistant_message" and event.get("finish") in ("interrupted", "length")


def format_call(call: Json) -> str:
    return f"→ {call['name']} {to_short_line(json.dumps(call['arguments'], ensure_ascii=False))}"


def format_event(event: Json) -> str:
    """Describes an event; "" for conversation text and for events that people need not see."""
    kind = event.get("type", "")
    formatter = _EVENT_FORMATTERS.get(kind)
    return formatter(event) if formatter else f"({kind})"


def _format_created(event: Json) -> str:
    parent = event.get("parent")
    forked = f", forked from session {parent['session']} at seq {parent['seq']}" if parent else ""
    return f"session {event['session']} of agent {event['agent']} created{forked}"


def _format_result(event: Json) -> str:
    outcome = event.get("outcome", "ok")
    took = f"{event.get('bytes', 0):,} bytes, {event.get('duration_ms', 0)} ms"
    ref = event.get("ref")
    more = f"\n  whole output: walrusctl tool output {event['session']} {ref}" if ref else ""
    if not event.get("is_error"):
        return f"← {event['name']} {outcome}, {took}{more}"
    gate = event.get("gate")
    by = f" by {gate}" if gate not in (None, "execute") else ""  # a tool that ran and failed was not refused
    return (
        f"← {event['name']} {'failed' if outcome == 'error' else outcome}{by}: {to_short_line(event['output'])}{more}"
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
    """Formats the error of a turn, with its hint in a second line."""
    hint = error.get("hint")
    hint_line = f"\n  hint: {to_short_line(as_cli_options(hint))}" if hint else ""
    return f"{error['kind']}: {to_short_line(error['message'])}{hint_line}"


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
