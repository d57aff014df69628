"""Builds export documents for tests: as dicts that a test can damage, and as the text that is sent."""

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
from walrusd.export_import.exporter import Exporter
from walrusd.export_import.importer import Importer
from walrusd.ports import Clock
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.runtime.runtime import Runtime
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields
from walrusd.store.contract import Log
from walrusd.store.tables.output import StoredOutput

ExportDict = dict[str, Any]
CALL = ToolCall("c1", "look", {"at": "the sea"})
LONG_OUTPUT = "a long output, whole\n" * 50
IMPORTED_AT = 1_000_000.0
LONG_OUTPUT_REF = StoredOutput.from_body(LONG_OUTPUT.encode()).ref


class SessionLogBuilder:
    """Builds the log of one session event by event, as walrusd would write it."""

    def __init__(self, session: int, parent: Parent | None = None) -> None:
        self.state = SessionState(id=session)
        self.events: list[AnySessionEvent] = []
        self.append(SessionCreated(agent="walrus", created_by="me", title="on walruses", parent=parent))

    def append(self, *events: AnySessionEvent) -> None:
        for event in events:
            stamped = fill_derived_fields(self.state, event, float(len(self.events)))
            self.state = apply_event(self.state, stamped)
            self.events.append(stamped)

    def add_turn(self, text: str, *, key: str | None = None) -> None:
        """Appends a turn of one message and its answer."""
        self.append(UserMessage(content=text, key=key), AssistantMessage(round=1, content=f"I heard {text}."))
        self.append(Done(stop_reason="text_response"))

    def add_tool_turn(self, text: str) -> None:
        """Appends a turn with a tool call whose output is stored by reference."""
        self.append(UserMessage(content=text), AssistantMessage(round=1, calls=(CALL,), finish="tool_calls"))
        self.append(ToolCallsStart(calls=(CALL,)), ToolStarted(call_id="c1", name="look"))
        result = ToolResult(
            call_id="c1", name="look", output="a long…", truncated=True, bytes=len(LONG_OUTPUT), ref=LONG_OUTPUT_REF
        )
        self.append(result, ToolCallsComplete(count=1))
        self.append(AssistantMessage(round=2, content="Blue."), Done(stop_reason="text_response"))

    def fork(self, session: int) -> "SessionLogBuilder":
        parent = Parent(session=self.state.id, seq=self.state.last_seq, messages=self.state.messages)
        return SessionLogBuilder(session, parent)

    def document_events(self) -> list[ExportDict]:
        """Returns the events as they appear in an export document."""
        return [{"seq": seq, **json.loads(encode(event))} for seq, event in enumerate(self.events, 1)]


def build_document(*logs: SessionLogBuilder, outputs: Sequence[str] = ()) -> ExportDict:
    """Returns the export of the last log; each log before it is the parent of the next."""
    own, state = logs[-1], logs[-1].state
    keys = [event.key for event in own.events if isinstance(event, UserMessage) and event.key]
    return {
        "walrus_export": 1,
        "exported_at": 99.5,
        "version": "0",
        "session": {
            "id": state.id,
            "agent": state.agent,
            "title": state.title,
            "created_by": state.created_by,
            "created_at": state.created_at,
            "last_seq": state.last_seq,
            "turn_left_out": None,
        },
        "ancestors": [
            {"session": log.state.id, "upto": log.state.last_seq, "events": log.document_events()} for log in logs[:-1]
        ],
        "events": own.document_events(),
        "outputs": [{"ref": StoredOutput.from_body(text.encode()).ref, "text": text} for text in outputs],
        "keys": [{"key": key, "digest": hashlib.sha256(key.encode()).hexdigest()} for key in keys],
    }


def three_generations() -> ExportDict:
    """Returns the export of a fork of a fork, with a stored tool output and one key used in all three."""
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
    """Returns the export of a session as text, and the result of the export."""
    pieces: list[str] = []

    async def append(piece: str) -> None:
        await trio.lowlevel.checkpoint()
        pieces.append(piece)

    result = await Exporter(log, session, append, trio.Lock()).write_document(99.5, "0")
    return "".join(pieces), result


def unknown_agent(name: str) -> Agent:
    raise Problem("agent_not_found", f"there is no agent {name!r}")


def make_importer(runtime: Runtime, clock: Clock = time.time) -> Importer:
    """Returns an importer for a runtime that runs outside a daemon."""
    return Importer(
        runtime.log,
        runtime.daemon_recorder,
        runtime.agent,
        runtime.check_not_stopping,
        clock=clock,
        on_event=lambda agent, event: runtime.hook.on_event(agent, event),
    )


async def import_text(log: Log, text: str) -> ImportResult:
    """Imports a document into `log`. The only agent that the importer knows is `walrus`."""

    def agent(name: str) -> Agent:
        return Agent(name=name) if name == "walrus" else unknown_agent(name)

    recorder = await DaemonRecorder.open(log)
    importer = Importer(log, recorder, agent, lambda: None, clock=lambda: IMPORTED_AT, on_event=lambda _, __: None)
    return await importer.import_document(BytesIO(text.encode()))


def with_ids(text: str, ids: Sequence[int]) -> ExportDict:
    """Returns the document with new session ids: oldest ancestor first, the session itself last."""
    document: ExportDict = json.loads(text)
    old_ids = [*(ancestor["session"] for ancestor in document["ancestors"]), document["session"]["id"]]
    new_ids = dict(zip(old_ids, ids, strict=True))
    document["session"]["id"] = new_ids[document["session"]["id"]]
    for ancestor in document["ancestors"]:
        ancestor["session"] = new_ids[ancestor["session"]]
    for event in [*(one for ancestor in document["ancestors"] for one in ancestor["events"]), *document["events"]]:
        event["session"] = new_ids[event["session"]]
        if event.get("parent"):
            event["parent"]["session"] = new_ids[event["parent"]["session"]]
    return document
