"""Whether a session's log has what belongs together: calls and their results, turns and their ends. Pure."""

import json
from collections.abc import Iterable, Iterator

from walrus_protocol.client import Json

_KINDS = (b'{"type":"assistant_message",', b'{"type":"tool_result",', b'{"type":"done",')


def unpaired(events: Iterable[tuple[int, bytes]], ended: Iterable[tuple[int, int]], *, in_turn: bool) -> Iterator[str]:
    """What is wrong with the events of a session, as (seq, body), and its ended turns, as (turn, last seq).

    `in_turn`: a turn is open, and may have calls without a result. Raises ValueError where an event is no JSON.
    """
    calls: set[str] = set()
    done: dict[int, int] = {}
    for seq, event in _that_count(events):
        match event["type"]:
            case "assistant_message":
                yield from _unanswered(calls, seq)
                calls = {call["id"] for call in event["calls"]}
            case "tool_result" if event["call_id"] in calls:
                calls.remove(event["call_id"])
            case "tool_result":
                yield f"the result at seq {seq} is of call {event['call_id']}, which was answered or never asked for"
            case _:
                yield from _unanswered(calls, seq)
                calls = set()
                if event["turn"] in done:
                    yield f"turn {event['turn']} ends twice, at seq {done[event['turn']]} and seq {seq}"
                done.setdefault(event["turn"], seq)
    if not in_turn:
        yield from _unanswered(calls, None)
    for turn, seq in ended:
        if done.pop(turn, None) != seq:
            yield f"turn {turn} is said to end at seq {seq}, and does not"
    for turn, seq in done.items():
        yield f"turn {turn} ends at seq {seq}, and is said to be open or not to be at all"


def _that_count(events: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Json]]:
    for seq, body in events:
        if body.startswith(_KINDS):
            try:
                yield seq, json.loads(body)
            except ValueError:
                raise ValueError(f"the event at seq {seq} is no JSON") from None


def _unanswered(calls: set[str], seq: int | None) -> Iterator[str]:
    where = "at its end" if seq is None else f"before seq {seq}"
    for call in sorted(calls):
        yield f"the call {call} has no result {where}"
