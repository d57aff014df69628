"""Events that walrusd never writes are refused: they would break a conversation or a total."""

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
    return lambda document: document["events"][number].update(fields)


def remove_field(number: int, name: str) -> EventChange:
    return lambda document: document["events"][number].pop(name)


def usage_fields(**fields: int) -> ExportDict:
    return {**HUGE_USAGE, "input": 0, **fields}


def duplicate_call_ids(document: ExportDict) -> None:
    for number in (5, 6):
        document["events"][number]["calls"] *= 2


def empty_call_ids(document: ExportDict) -> None:
    for number in (5, 6):
        document["events"][number]["calls"][0]["id"] = ""


def add_checkpoint(name: str) -> EventChange:
    def append_checkpoint(document: ExportDict) -> None:
        common = {"ts": 9.0, "session": 8, "turn": None}
        document["events"].append({"seq": 13, "type": "checkpoint_created", **common, "name": name, "at": 3})
        document["session"]["last_seq"] = 13

    return append_checkpoint


def remove_agent_name(document: ExportDict) -> None:
    document["events"][0]["agent"] = document["session"]["agent"] = ""


INVALID_EVENTS: dict[str, tuple[EventChange, str]] = {
    "two calls of one id": (duplicate_call_ids, "events[5].calls: the id 'c1' occurs twice"),
    "a call without an id": (empty_call_ids, "events[5].calls: a call has no id"),
    "an empty message": (change_event(1, content=""), "events[1].content: it is empty"),
    "a message without parts": (change_event(1, content=[]), "events[1].content: it is empty"),
    "a number out of range": (
        change_event(2, duration_ms=10**30),
        f"events[2].duration_ms: {10**30} is not between 0 and {MAX_INTEGER - 1:,}",
    ),
    "a nested number out of range": (
        change_event(2, usage=usage_fields(output=MAX_INTEGER)),
        f"events[2].usage.output: {MAX_INTEGER} is not between 0 and",
    ),
    "a negative number": (change_event(2, usage=usage_fields(input=-5)), "events[2].usage.input: -5 is not between 0"),
    "a negative cost": (change_event(2, cost_usd=-0.5), "events[2].cost_usd: -0.5 is not between 0"),
    "an infinite cost": (change_event(2, cost_usd=1e308), "events[2].cost_usd: 1e+308 is not between 0"),
    "a total out of range": (
        lambda document: [document["events"][number].update(usage=HUGE_USAGE) for number in (2, 3, 5)],
        f"events[5].usage: the total up to here exceeds {MAX_INTEGER - 1:,}",
    ),
    "no time": (remove_field(1, "ts"), "events[1].ts: the field is missing"),
    "no turn": (remove_field(0, "turn"), "events[0].turn: the field is missing"),
    "no sender": (remove_field(1, "sender"), "events[1].sender: the field is missing"),
    "no usage": (remove_field(2, "usage"), "events[2].usage: the field is missing"),
    "a time in the year 10,000 in some time zone": (change_event(2, ts=MAX_TIMESTAMP + 1), "events[2].ts: "),
    "another final text": (
        change_event(3, text="Bye."),
        "events[3].text: it is 'Bye.', but 'I heard one.' by the events",
    ),
    "another usage": (change_event(3, usage=usage_fields(input=5)), "events[3].usage: it is Usage(input=5,"),
    "another cost": (change_event(3, cost_usd=9.0), "events[3].cost_usd: it is 9.0, but None by the events"),
    "more rounds": (change_event(3, rounds=7), "events[3].rounds: it is 7, but 1 by the events"),
    "more calls": (change_event(9, count=7), "events[9].count: it is 7, but 1 by the events"),
    "another tool started": (change_event(7, name="bash"), "events[7].name: it is 'bash', but 'look' by the events"),
    "another tool's result": (change_event(8, name="bash"), "events[8].name: it is 'bash', but 'look' by the events"),
    "a checkpoint named like a seq": (add_checkpoint("5"), "events[12].name: '5' is a number"),
    "a checkpoint with control characters": (
        add_checkpoint("\x1b[2J"),
        "events[12].name: '\\x1b[2J' has misplaced white space",
    ),
    "a checkpoint without a name": (add_checkpoint(""), "events[12].name: it is empty"),
    "an empty key": (change_event(1, key=""), "events[1].key: it is empty"),
    "an agent without a name": (remove_agent_name, "events[0].agent: it is empty"),
}


@pytest.mark.parametrize("name", INVALID_EVENTS)
async def test_an_invalid_event_is_refused(name: str, tmp_path: Path) -> None:
    change, expected = INVALID_EVENTS[name]
    document = valid_document()
    change(document)
    log = await SqliteDisk(tmp_path).open()
    with pytest.raises(Problem) as caught:
        await import_text(log, encode_document(document))
    assert expected in caught.value.message, caught.value.message
    await log.aclose()


async def test_fields_that_an_older_walrusd_did_not_write_are_optional(tmp_path: Path) -> None:
    document = valid_document()
    for number, name in ((1, "timeout_s"), (3, "messages"), (9, "messages")):
        del document["events"][number][name]
    log = await SqliteDisk(tmp_path).open()
    assert (await import_text(log, encode_document(document))).session == 1
    await log.aclose()
