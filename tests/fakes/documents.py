"""Exported sessions made by hand: as dicts, so that a test can spoil them, and as the text that is sent."""

import hashlib
import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import msgspec
import trio

from walrus_protocol.content import ToolCall
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    Durable,
    Parent,
    SessionCreated,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
    encode,
)
from walrus_protocol.portable import Exported, Imported
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.portable.exporting import export
from walrusd.runtime.portable.importing import Importing
from walrusd.session.outline import Outline, advance, stamp
from walrusd.store.log import Log, Output

Document = dict[str, Any]
CALL = ToolCall("c1", "look", {"at": "the sea"})
LONG = "a long output, whole\n" * 50
IMPORTED_AT = 1_000_000.0
REF = Output.of(LONG.encode()).ref


class Chat:
    """A log as walrusd would write it, one event after the other."""

    def __init__(self, session: int, parent: Parent | None = None) -> None:
        self.outline = Outline(id=session)
        self.events: list[Durable] = []
        self.hear(SessionCreated(agent="walrus", created_by="me", title="on walruses", parent=parent))

    def hear(self, *events: Durable) -> None:
        for event in events:
            stamped = stamp(self.outline, event, float(len(self.events)))
            self.outline = advance(self.outline, stamped)
            self.events.append(stamped)

    def turn(self, said: str, *, key: str | None = None) -> None:
        """A message and its answer."""
        self.hear(UserMessage(content=said, key=key), AssistantMessage(round=1, content=f"I heard {said}."))
        self.hear(Done(stop_reason="text_response"))

    def looks(self, said: str) -> None:
        """A turn with a call, whose output is kept by reference."""
        self.hear(UserMessage(content=said), AssistantMessage(round=1, calls=(CALL,), finish="tool_calls"))
        self.hear(ToolCallsStart(calls=(CALL,)), ToolStarted(call_id="c1", name="look"))
        result = ToolResult(call_id="c1", name="look", output="a long…", truncated=True, bytes=len(LONG), ref=REF)
        self.hear(result, ToolCallsComplete(count=1))
        self.hear(AssistantMessage(round=2, content="Blue."), Done(stop_reason="text_response"))

    def fork(self, session: int) -> "Chat":
        here = Parent(session=self.outline.id, seq=self.outline.last_seq, messages=self.outline.messages)
        return Chat(session, here)

    def told(self) -> list[Document]:
        """Its events as they stand in a document."""
        return [{"seq": seq, **json.loads(encode(event))} for seq, event in enumerate(self.events, 1)]


def document(*logs: Chat, outputs: Sequence[str] = ()) -> Document:
    """Of the last of these, which goes on from the one before it."""
    own, outline = logs[-1], logs[-1].outline
    keys = [event.key for event in own.events if isinstance(event, UserMessage) and event.key]
    return {
        "walrus_export": 1,
        "exported_at": 99.5,
        "version": "0",
        "session": {
            "id": outline.id,
            "agent": outline.agent,
            "title": outline.title,
            "created_by": outline.created_by,
            "created_at": outline.created_at,
            "last_seq": outline.last_seq,
            "turn_left_out": None,
        },
        "ancestors": [
            {"session": log.outline.id, "upto": log.outline.last_seq, "events": log.told()} for log in logs[:-1]
        ],
        "events": own.told(),
        "outputs": [{"ref": Output.of(text.encode()).ref, "text": text} for text in outputs],
        "keys": [{"key": key, "digest": hashlib.sha256(key.encode()).hexdigest()} for key in keys],
    }


def family() -> Document:
    """Three generations, with a call whose output is kept, a key in each, and the same one twice."""
    first = Chat(3)
    first.turn("one", key="k")
    first.looks("what is there?")
    second = first.fork(5)
    second.turn("two", key="k")
    third = second.fork(8)
    third.turn("three", key="k")
    third.looks("and now?")
    return document(first, second, third, outputs=[LONG])


def as_text(told: Document) -> str:
    return msgspec.json.encode(told).decode()


async def exported(log: Log, session: int) -> tuple[str, Exported]:
    """The document of a session, and what is said of it."""
    pieces: list[str] = []
    page = trio.Lock()

    async def say(piece: str) -> None:
        await trio.lowlevel.checkpoint()
        pieces.append(piece)

    result = await export(log, session, say, page=lambda: page, clock=lambda: 99.5, version="0")
    return "".join(pieces), result


def nobody(name: str) -> Agent:
    raise Problem("agent_not_found", f"there is no agent {name!r}")


async def imported(log: Log, text: str) -> Imported:
    """By one who knows the agent `walrus`, and no other."""

    def agent(name: str) -> Agent:
        return Agent(name=name) if name == "walrus" else nobody(name)

    facts = await DaemonFacts.open(log)
    importing = Importing(log, facts, agent, lambda: None, clock=lambda: IMPORTED_AT, see=lambda _, __: None)
    return await importing.take(BytesIO(text.encode()))


def with_ids(text: str, ids: Sequence[int]) -> Document:
    """The document, its sessions named by these ids: the oldest ancestor by the first, itself by the last."""
    told: Document = json.loads(text)
    olds = [*(ancestor["session"] for ancestor in told["ancestors"]), told["session"]["id"]]
    new = dict(zip(olds, ids, strict=True))
    told["session"]["id"] = new[told["session"]["id"]]
    for ancestor in told["ancestors"]:
        ancestor["session"] = new[ancestor["session"]]
    for event in [*(one for ancestor in told["ancestors"] for one in ancestor["events"]), *told["events"]]:
        event["session"] = new[event["session"]]
        if event.get("parent"):
            event["parent"]["session"] = new[event["parent"]["session"]]
    return told
