"""Events that each can be read, and that walrusd never writes: what would spoil a conversation, or a sum, for good."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.export_documents import (
    LONG_OUTPUT,
    ExportDict,
    SessionLogBuilder,
    build_document,
    encode_document,
    import_text,
)
from tests.fakes.stores import SqliteDisk
from walrus_protocol.problems import Problem
from walrusd.export_import.event_validation import MAX_TIMESTAMP

EventChange = Callable[[ExportDict], object]
MAX_INTEGER = 2**53
HUGE_USAGE = {"input": MAX_INTEGER - 1, "output": 0, "cache_read": 0, "cache_write": 0, "reasoning": 0}


def valid_document() -> ExportDict:
    chat = SessionLogBuilder(8)
    chat.add_turn("one", key="k")
    chat.add_tool_turn("and now?")
    return build_document(chat, outputs=[LONG_OUTPUT])


def change_event(number: int, /, **fields: object) -> EventChange:
    return lambda told: told["events"][number].update(fields)


def remove_field(number: int, name: str) -> EventChange:
    return lambda told: told["events"][number].pop(name)


def usage_fields(**fields: int) -> ExportDict:
    return {**HUGE_USAGE, "input": 0, **fields}


def duplicate_call_ids(document: ExportDict) -> None:
    for number in (5, 6):
        document["events"][number]["calls"] *= 2


def empty_call_ids(document: ExportDict) -> None:
    for number in (5, 6):
        document["events"][number]["calls"][0]["id"] = ""


def add_checkpoint(name: str) -> EventChange:
    def mark(told: ExportDict) -> None:
        common = {"ts": 9.0, "session": 8, "turn": None}
        told["events"].append({"seq": 13, "type": "checkpoint_created", **common, "name": name, "at": 3})
        told["session"]["last_seq"] = 13

    return mark


def remove_agent_name(document: ExportDict) -> None:
    document["events"][0]["agent"] = document["session"]["agent"] = ""


INVALID_EVENTS: dict[str, tuple[EventChange, str]] = {
    "two calls of one id": (duplicate_call_ids, "events[5].calls: the id 'c1' comes twice"),
    "a call without an id": (empty_call_ids, "events[5].calls: one has no id"),
    "a message of nothing": (change_event(1, content=""), "events[1].content: it is empty"),
    "a message of no parts": (change_event(1, content=[]), "events[1].content: it is empty"),
    "a number beyond counting": (
        change_event(2, duration_ms=10**30),
        f"events[2].duration_ms: {10**30} is not from 0 to {MAX_INTEGER - 1:,}",
    ),
    "one within": (
        change_event(2, usage=usage_fields(output=MAX_INTEGER)),
        f"events[2].usage.output: {MAX_INTEGER} is not from 0 to",
    ),
    "fewer than none": (change_event(2, usage=usage_fields(input=-5)), "events[2].usage.input: -5 is not from 0"),
    "money that comes back": (change_event(2, cost_usd=-0.5), "events[2].cost_usd: -0.5 is not from 0"),
    "money without end": (change_event(2, cost_usd=1e308), "events[2].cost_usd: 1e+308 is not from 0"),
    "a sum beyond counting": (
        lambda told: [told["events"][number].update(usage=HUGE_USAGE) for number in (2, 3, 5)],
        f"events[5].usage: with those before it, it comes to over {MAX_INTEGER - 1:,}",
    ),
    "no time": (remove_field(1, "ts"), "events[1].ts: it is missing"),
    "no turn": (remove_field(0, "turn"), "events[0].turn: it is missing"),
    "no sender": (remove_field(1, "sender"), "events[1].sender: it is missing"),
    "no usage": (remove_field(2, "usage"), "events[2].usage: it is missing"),
    "a time in year ten thousand somewhere": (change_event(2, ts=MAX_TIMESTAMP + 1), "events[2].ts: "),
    "another last word": (
        change_event(3, text="Bye."),
        "events[3].text: it is 'Bye.', and 'I heard one.' by the events",
    ),
    "another sum": (change_event(3, usage=usage_fields(input=5)), "events[3].usage: it is Usage(input=5,"),
    "another price": (change_event(3, cost_usd=9.0), "events[3].cost_usd: it is 9.0, and None by the events"),
    "more rounds": (change_event(3, rounds=7), "events[3].rounds: it is 7, and 1 by the events"),
    "more calls": (change_event(9, count=7), "events[9].count: it is 7, and 1 by the events"),
    "another tool at work": (change_event(7, name="bash"), "events[7].name: it is 'bash', and 'look' by the events"),
    "another tool's result": (change_event(8, name="bash"), "events[8].name: it is 'bash', and 'look' by the events"),
    "a checkpoint like a seq": (add_checkpoint("5"), "events[12].name: '5' is a number"),
    "a checkpoint that clears the screen": (
        add_checkpoint("\x1b[2J"),
        "events[12].name: '\\x1b[2J' has misplaced white space",
    ),
    "a checkpoint without name": (add_checkpoint(""), "events[12].name: it is empty"),
    "a key of nothing": (change_event(1, key=""), "events[1].key: it is empty"),
    "an agent without name": (remove_agent_name, "events[0].agent: it is empty"),
}


@pytest.mark.parametrize("name", INVALID_EVENTS)
async def test_an_invalid_event_is_refused(name: str, tmp_path: Path) -> None:
    spoil, expected = INVALID_EVENTS[name]
    told = valid_document()
    spoil(told)
    log = await SqliteDisk(tmp_path).open()
    with pytest.raises(Problem) as caught:
        await import_text(log, encode_document(told))
    assert expected in caught.value.message, caught.value.message
    await log.aclose()


async def test_fields_that_an_older_walrusd_did_not_write_are_optional(tmp_path: Path) -> None:
    told = valid_document()
    for number, name in ((1, "timeout_s"), (3, "messages"), (9, "messages")):
        del told["events"][number][name]
    log = await SqliteDisk(tmp_path).open()
    assert (await import_text(log, encode_document(told))).session == 1
    await log.aclose()
