"""Events that each can be read, and that walrusd never writes: what would spoil a conversation, or a sum, for good."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.documents import LONG, Chat, Document, as_text, document, imported
from tests.fakes.stores import SqliteDisk
from walrus_protocol.problems import Problem
from walrusd.runtime.portable.event import LATEST

Spoil = Callable[[Document], object]
FAR = 2**53
HUGE = {"input": FAR - 1, "output": 0, "cache_read": 0, "cache_write": 0, "reasoning": 0}


def sound() -> Document:
    chat = Chat(8)
    chat.turn("one", key="k")
    chat.looks("and now?")
    return document(chat, outputs=[LONG])


def event(number: int, /, **fields: object) -> Spoil:
    return lambda told: told["events"][number].update(fields)


def without(number: int, name: str) -> Spoil:
    return lambda told: told["events"][number].pop(name)


def usage(**fields: int) -> Document:
    return {**HUGE, "input": 0, **fields}


def called_twice(told: Document) -> None:
    for number in (5, 6):
        told["events"][number]["calls"] *= 2


def called_nothing(told: Document) -> None:
    for number in (5, 6):
        told["events"][number]["calls"][0]["id"] = ""


def marked(name: str) -> Spoil:
    def mark(told: Document) -> None:
        common = {"ts": 9.0, "session": 8, "turn": None}
        told["events"].append({"seq": 13, "type": "checkpoint_created", **common, "name": name, "at": 3})
        told["session"]["last_seq"] = 13

    return mark


def of_no_agent(told: Document) -> None:
    told["events"][0]["agent"] = told["session"]["agent"] = ""


SPOILT: dict[str, tuple[Spoil, str]] = {
    "two calls of one id": (called_twice, "events[5].calls: the id 'c1' comes twice"),
    "a call without an id": (called_nothing, "events[5].calls: one has no id"),
    "a message of nothing": (event(1, content=""), "events[1].content: it is empty"),
    "a message of no parts": (event(1, content=[]), "events[1].content: it is empty"),
    "a number beyond counting": (
        event(2, duration_ms=10**30),
        f"events[2].duration_ms: {10**30} is not from 0 to {FAR - 1:,}",
    ),
    "one within": (event(2, usage=usage(output=FAR)), f"events[2].usage.output: {FAR} is not from 0 to"),
    "fewer than none": (event(2, usage=usage(input=-5)), "events[2].usage.input: -5 is not from 0"),
    "money that comes back": (event(2, cost_usd=-0.5), "events[2].cost_usd: -0.5 is not from 0"),
    "money without end": (event(2, cost_usd=1e308), "events[2].cost_usd: 1e+308 is not from 0"),
    "a sum beyond counting": (
        lambda told: [told["events"][number].update(usage=HUGE) for number in (2, 3, 5)],
        f"events[5].usage: with those before it, it comes to over {FAR - 1:,}",
    ),
    "no time": (without(1, "ts"), "events[1].ts: it is missing"),
    "no turn": (without(0, "turn"), "events[0].turn: it is missing"),
    "no sender": (without(1, "sender"), "events[1].sender: it is missing"),
    "no usage": (without(2, "usage"), "events[2].usage: it is missing"),
    "a time in year ten thousand somewhere": (event(2, ts=LATEST + 1), "events[2].ts: "),
    "another last word": (event(3, text="Bye."), "events[3].text: it is 'Bye.', and 'I heard one.' by the events"),
    "another sum": (event(3, usage=usage(input=5)), "events[3].usage: it is Usage(input=5,"),
    "another price": (event(3, cost_usd=9.0), "events[3].cost_usd: it is 9.0, and None by the events"),
    "more rounds": (event(3, rounds=7), "events[3].rounds: it is 7, and 1 by the events"),
    "more calls": (event(9, count=7), "events[9].count: it is 7, and 1 by the events"),
    "another tool at work": (event(7, name="bash"), "events[7].name: it is 'bash', and 'look' by the events"),
    "another tool's result": (event(8, name="bash"), "events[8].name: it is 'bash', and 'look' by the events"),
    "a checkpoint like a seq": (marked("5"), "events[12].name: '5' is a number"),
    "a checkpoint that clears the screen": (marked("\x1b[2J"), "events[12].name: '\\x1b[2J' is not what a list"),
    "a checkpoint without name": (marked(""), "events[12].name: it is empty"),
    "a key of nothing": (event(1, key=""), "events[1].key: it is empty"),
    "an agent without name": (of_no_agent, "events[0].agent: it is empty"),
}


@pytest.mark.parametrize("name", SPOILT)
async def test_a_document_is_refused_with(name: str, tmp_path: Path) -> None:
    spoil, expected = SPOILT[name]
    told = sound()
    spoil(told)
    log = await SqliteDisk(tmp_path).open()
    with pytest.raises(Problem) as caught:
        await imported(log, as_text(told))
    assert expected in caught.value.message, caught.value.message
    await log.aclose()


async def test_what_is_left_out_by_an_older_walrusd_is_not_missed(tmp_path: Path) -> None:
    told = sound()
    for number, name in ((1, "timeout_s"), (3, "messages"), (9, "messages")):
        del told["events"][number][name]
    log = await SqliteDisk(tmp_path).open()
    assert (await imported(log, as_text(told))).session == 1
    await log.aclose()
