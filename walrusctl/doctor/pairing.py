"""Whether a session's log has what belongs together: calls and their results, turns and their ends. Pure."""

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_KINDS = (b'{"type":"assistant_message",', b'{"type":"tool_result",', b'{"type":"done",')


class Asked(NamedTuple):
    calls: set[str]


class Answered(NamedTuple):
    call: str


class Ended(NamedTuple):
    turn: int


class Unknown(NamedTuple):
    """What is no event at all."""


def unpaired(events: Iterable[tuple[int, bytes]], ended: Iterable[tuple[int, int]], *, in_turn: bool) -> Iterator[str]:
    """What is wrong with the events of a session, as (seq, body), and its ended turns, as (turn, last seq).

    Of the events those that come in pairs, and what is none.

    `in_turn`: a turn is open, and may have calls without a result. Raises ValueError where an event cannot be read.
    """
    calls: set[str] = set()
    done: dict[int, int] = {}
    for seq, event in _that_count(events):
        match event:
            case Asked():
                yield from _unanswered(calls, seq)
                calls = event.calls
            case Answered(call) if call in calls:
                calls.remove(call)
            case Answered(call):
                yield f"the result at seq {seq} is of call {call}, which was answered or never asked for"
            case Ended(turn):
                yield from _unanswered(calls, seq)
                calls = set()
                if turn in done:
                    yield f"turn {turn} ends twice, at seq {done[turn]} and seq {seq}"
                done.setdefault(turn, seq)
            case Unknown():
                yield f"the event at seq {seq} is not one that walrusd writes"
    if not in_turn:
        yield from _unanswered(calls, None)
    yield from _ends_elsewhere(done, ended)


def _ends_elsewhere(done: dict[int, int], ended: Iterable[tuple[int, int]]) -> Iterator[str]:
    """`done`: each turn with the seq of its end in the log."""
    for turn, seq in ended:
        if done.pop(turn, None) != seq:
            yield f"turn {turn} is said to end at seq {seq}, and does not"
    for turn, seq in done.items():
        yield f"turn {turn} ends at seq {seq}, and is said to be open or not to be at all"


def _that_count(events: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Asked | Answered | Ended | Unknown]]:
    for seq, body in events:
        if not body.startswith(_KINDS):
            yield seq, Unknown()
            continue
        try:
            event = _read(body)
        except json.JSONDecodeError:
            raise ValueError(f"the event at seq {seq} is no JSON") from None
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"the event at seq {seq} is not one that walrusd writes") from None
        yield seq, event


def _read(body: bytes) -> Asked | Answered | Ended:
    """Raises ValueError, LookupError and TypeError."""
    event = json.loads(body)
    match event["type"]:
        case "assistant_message":
            return Asked({str(call["id"]) for call in event["calls"]})
        case "tool_result":
            return Answered(str(event["call_id"]))
        case _:
            return Ended(int(event["turn"]))


def _unanswered(calls: set[str], seq: int | None) -> Iterator[str]:
    where = "at its end" if seq is None else f"before seq {seq}"
    for call in sorted(calls):
        yield f"the call {call} has no result {where}"
