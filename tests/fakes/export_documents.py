"""Exported sessions made by hand: as dicts, so that a test can spoil them, and as the text that is sent."""

import hashlib
import json
import time
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import msgspec
import trio

from walrus_protocol.content import ToolCall
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    Parent,
    SessionCreated,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
    encode,
)
from walrus_protocol.methods.export_import import ExportResult, ImportResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.export_import.exporter import export_session
from walrusd.export_import.importer import Importer
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields
from walrusd.store.contract import Log, StoredOutput

ExportDict = dict[str, Any]
CALL = ToolCall("c1", "look", {"at": "the sea"})
LONG_OUTPUT = "a long output, whole\n" * 50
IMPORTED_AT = 1_000_000.0
LONG_OUTPUT_REF = StoredOutput.from_body(LONG_OUTPUT.encode()).ref


class SessionLogBuilder:
    """A log as walrusd would write it, one event after the other."""

    def __init__(self, session: int, parent: Parent | None = None) -> None:
        self.outline = SessionState(id=session)
        self.events: list[AnySessionEvent] = []
        self.append(SessionCreated(agent="walrus", created_by="me", title="on walruses", parent=parent))

    def append(self, *events: AnySessionEvent) -> None:
        for event in events:
            stamped = fill_derived_fields(self.outline, event, float(len(self.events)))
            self.outline = apply_event(self.outline, stamped)
            self.events.append(stamped)

    def add_turn(self, text: str, *, key: str | None = None) -> None:
        """A message and its answer."""
        self.append(UserMessage(content=text, key=key), AssistantMessage(round=1, content=f"I heard {text}."))
        self.append(Done(stop_reason="text_response"))

    def add_tool_turn(self, text: str) -> None:
        """A turn with a call, whose output is kept by reference."""
        self.append(UserMessage(content=text), AssistantMessage(round=1, calls=(CALL,), finish="tool_calls"))
        self.append(ToolCallsStart(calls=(CALL,)), ToolStarted(call_id="c1", name="look"))
        result = ToolResult(
            call_id="c1", name="look", output="a long…", truncated=True, bytes=len(LONG_OUTPUT), ref=LONG_OUTPUT_REF
        )
        self.append(result, ToolCallsComplete(count=1))
        self.append(AssistantMessage(round=2, content="Blue."), Done(stop_reason="text_response"))

    def fork(self, session: int) -> "SessionLogBuilder":
        here = Parent(session=self.outline.id, seq=self.outline.last_seq, messages=self.outline.messages)
        return SessionLogBuilder(session, here)

    def document_events(self) -> list[ExportDict]:
        """Its events as they stand in a document."""
        return [{"seq": seq, **json.loads(encode(event))} for seq, event in enumerate(self.events, 1)]


def build_document(*logs: SessionLogBuilder, outputs: Sequence[str] = ()) -> ExportDict:
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
            {"session": log.outline.id, "upto": log.outline.last_seq, "events": log.document_events()}
            for log in logs[:-1]
        ],
        "events": own.document_events(),
        "outputs": [{"ref": StoredOutput.from_body(text.encode()).ref, "text": text} for text in outputs],
        "keys": [{"key": key, "digest": hashlib.sha256(key.encode()).hexdigest()} for key in keys],
    }


def three_generations() -> ExportDict:
    """Three generations, with a call whose output is kept, a key in each, and the same one twice."""
    first = SessionLogBuilder(3)
    first.add_turn("one", key="k")
    first.add_tool_turn("what is there?")
    second = first.fork(5)
    second.add_turn("two", key="k")
    third = second.fork(8)
    third.add_turn("three", key="k")
    third.add_tool_turn("and now?")
    return build_document(first, second, third, outputs=[LONG_OUTPUT])


def encode_document(document: ExportDict) -> str:
    return msgspec.json.encode(document).decode()


async def export_to_text(log: Log, session: int) -> tuple[str, ExportResult]:
    """The document of a session, and what is said of it."""
    pieces: list[str] = []
    page = trio.Lock()

    async def say(piece: str) -> None:
        await trio.lowlevel.checkpoint()
        pieces.append(piece)

    result = await export_session(log, session, say, page_slot=lambda: page, clock=lambda: 99.5, version="0")
    return "".join(pieces), result


def unknown_agent(name: str) -> Agent:
    raise Problem("agent_not_found", f"there is no agent {name!r}")


def make_importer(runtime: Runtime) -> Importer:
    """The importer of a runtime that no daemon is built around."""
    return Importer(
        runtime.log,
        runtime.daemon_recorder,
        runtime.agent,
        runtime.check_not_stopping,
        clock=time.time,
        on_event=lambda agent, event: runtime.hook.on_event(agent, event),
    )


async def import_text(log: Log, text: str) -> ImportResult:
    """By one who knows the agent `walrus`, and no other."""

    def agent(name: str) -> Agent:
        return Agent(name=name) if name == "walrus" else unknown_agent(name)

    facts = await DaemonRecorder.open(log)
    importing = Importer(log, facts, agent, lambda: None, clock=lambda: IMPORTED_AT, on_event=lambda _, __: None)
    return await importing.import_document(BytesIO(text.encode()))


def with_ids(text: str, ids: Sequence[int]) -> ExportDict:
    """The document, its sessions named by these ids: the oldest ancestor by the first, itself by the last."""
    told: ExportDict = json.loads(text)
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
