"""Checks that the calls in a session's log have results, and that its turns have ends. Pure functions."""

import json
from collections.abc import Iterable, Iterator

_PAIRED_PREFIXES = (b'{"type":"assistant_message",', b'{"type":"tool_result",', b'{"type":"done",')


def find_unpaired(
    events: Iterable[tuple[int, bytes]], ended_turns: Iterable[tuple[int, int]], *, in_turn: bool
) -> Iterator[str]:
    """Yields the problems of a session's paired events (seq, body) and ended turns (turn, last seq).

    `events` has the event types that come in pairs, and rows that are not events. With `in_turn` a turn is open and may
    have calls without a result. Raises ValueError for an event that cannot be read.
    """
    calls: set[str] = set()
    ends: dict[int, int] = {}
    for seq, body in events:
        match _decode_event(seq, body):
            case set(requested):
                yield from _describe_unanswered(calls, seq)
                calls = requested
            case str(call) if call in calls:
                calls.remove(call)
            case str(call):
                yield f"the result at seq {seq} is for call {call}, which already had one or was never requested"
            case int(turn):
                yield from _describe_unanswered(calls, seq)
                calls = set()
                if turn in ends:
                    yield f"turn {turn} ends twice, at seq {ends[turn]} and seq {seq}"
                ends.setdefault(turn, seq)
            case None:
                yield f"the event at seq {seq} is not one that walrusd writes"
    if not in_turn:
        yield from _describe_unanswered(calls, None)
    yield from _find_misplaced_ends(ends, ended_turns)


def _find_misplaced_ends(logged_ends: dict[int, int], ended_turns: Iterable[tuple[int, int]]) -> Iterator[str]:
    """Compares the ends in the log (turn to seq) with the ends in the table of turns."""
    for turn, seq in ended_turns:
        if logged_ends.pop(turn, None) != seq:
            yield f"turn {turn} is recorded as ending at seq {seq}, but does not"
    for turn, seq in logged_ends.items():
        yield f"turn {turn} ends at seq {seq}, but is recorded as open or not at all"


def _decode_event(seq: int, body: bytes) -> set[str] | str | int | None:
    """Returns the calls of an assistant message, the call of a result, or the turn of an end.

    None for a row that is not an event. Raises ValueError for an event without these fields.
    """
    if not body.startswith(_PAIRED_PREFIXES):
        return None
    try:
        match event := json.loads(body):
            case {"type": "assistant_message"}:
                return {str(call["id"]) for call in event["calls"]}
            case {"type": "tool_result"}:
                return str(event["call_id"])
            case _:
                return int(event["turn"])
    except json.JSONDecodeError:
        raise ValueError(f"the event at seq {seq} is not JSON") from None
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        raise ValueError(f"the event at seq {seq} is not one that walrusd writes") from None


def _describe_unanswered(calls: set[str], seq: int | None) -> Iterator[str]:
    where = "at its end" if seq is None else f"before seq {seq}"
    for call in sorted(calls):
        yield f"the call {call} has no result {where}"
