"""Whether a session's log has what belongs together: calls and their results, turns and their ends. Pure."""

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_PAIRED_PREFIXES = (b'{"type":"assistant_message",', b'{"type":"tool_result",', b'{"type":"done",')


class RequestedCalls(NamedTuple):
    calls: set[str]


class AnsweredCall(NamedTuple):
    call: str


class EndedTurn(NamedTuple):
    turn: int


class UnknownEvent(NamedTuple):
    """What is no event at all."""


def find_unpaired(
    events: Iterable[tuple[int, bytes]], ended_turns: Iterable[tuple[int, int]], *, in_turn: bool
) -> Iterator[str]:
    """What is wrong with the events of a session, as (seq, body), and its ended turns, as (turn, last seq).

    Of the events those that come in pairs, and what is none.

    `in_turn`: a turn is open, and may have calls without a result. Raises ValueError where an event cannot be read.
    """
    calls: set[str] = set()
    done: dict[int, int] = {}
    for seq, event in _decode_events(events):
        match event:
            case RequestedCalls():
                yield from _describe_unanswered(calls, seq)
                calls = event.calls
            case AnsweredCall(call) if call in calls:
                calls.remove(call)
            case AnsweredCall(call):
                yield f"the result at seq {seq} is of call {call}, which was answered or never asked for"
            case EndedTurn(turn):
                yield from _describe_unanswered(calls, seq)
                calls = set()
                if turn in done:
                    yield f"turn {turn} ends twice, at seq {done[turn]} and seq {seq}"
                done.setdefault(turn, seq)
            case UnknownEvent():
                yield f"the event at seq {seq} is not one that walrusd writes"
    if not in_turn:
        yield from _describe_unanswered(calls, None)
    yield from _find_misplaced_ends(done, ended_turns)


def _find_misplaced_ends(logged_ends: dict[int, int], ended_turns: Iterable[tuple[int, int]]) -> Iterator[str]:
    """`done`: each turn with the seq of its end in the log."""
    for turn, seq in ended_turns:
        if logged_ends.pop(turn, None) != seq:
            yield f"turn {turn} is said to end at seq {seq}, and does not"
    for turn, seq in logged_ends.items():
        yield f"turn {turn} ends at seq {seq}, and is said to be open or not to be at all"


def _decode_events(
    events: Iterable[tuple[int, bytes]],
) -> Iterator[tuple[int, RequestedCalls | AnsweredCall | EndedTurn | UnknownEvent]]:
    for seq, body in events:
        if not body.startswith(_PAIRED_PREFIXES):
            yield seq, UnknownEvent()
            continue
        try:
            event = _decode_event(body)
        except json.JSONDecodeError:
            raise ValueError(f"the event at seq {seq} is no JSON") from None
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"the event at seq {seq} is not one that walrusd writes") from None
        yield seq, event


def _decode_event(body: bytes) -> RequestedCalls | AnsweredCall | EndedTurn:
    """Raises ValueError, LookupError and TypeError."""
    event = json.loads(body)
    match event["type"]:
        case "assistant_message":
            return RequestedCalls({str(call["id"]) for call in event["calls"]})
        case "tool_result":
            return AnsweredCall(str(event["call_id"]))
        case _:
            return EndedTurn(int(event["turn"]))


def _describe_unanswered(calls: set[str], seq: int | None) -> Iterator[str]:
    where = "at its end" if seq is None else f"before seq {seq}"
    for call in sorted(calls):
        yield f"the call {call} has no result {where}"
