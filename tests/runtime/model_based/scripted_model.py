"""The model and the tools of the machine: every word is an order's, and what providers insist on is checked."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import trio

from tests.fakes.validators import violations
from tests.runtime.model_based.operations import ModelAction, ToolAction
from walrus_protocol.content import Message, ToolCall, ToolSchema, Usage, User, plain_text
from walrus_protocol.events import ToolResult
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply, TextChunk, ThinkingChunk, ToolRequest
from walrusd.store.contract import StoredOutput

LOOK = ToolSchema(name="look", description="Look.", parameters={"type": "object"}, read_only=True, idempotent=True)
TOUCH = ToolSchema(name="touch", description="Touch.", parameters={"type": "object"})
USAGE = Usage(input=3, output=1)
COST_USD = 0.5
LONG_TEXT = "seen, and seen again\n" * 300
"""So long that a store keeps it beside the event, once for all that say it."""
FULL_OUTPUT = StoredOutput.from_body(b"seen whole\n" * 500)
"""What is kept of an output that the model is shown in part."""


class InjectedCrash(Exception):
    """One that a model or a tool has by order."""


class PendingCall:
    """A model call or a tool call that waits for its order."""

    def __init__(self) -> None:
        self.text = ""
        self.thinking = ""
        self.action = ""
        self.action_given = trio.Event()

    def give_action(self, action: str) -> None:
        self.action = action
        self.action_given.set()


class RecordedPrompt(NamedTuple):
    """What a model was asked with."""

    session: int
    messages: list[Message]


class ScriptedModel:
    """Of one life. `ids` gives those of tool calls, none of them twice in a story."""

    def __init__(self, ids: Iterator[int]) -> None:
        self.auto_action: Literal["answer", "call tools"] | None = None
        """What it does by itself, whenever it is asked."""
        self.effects: list[str] = []
        """The ids of the calls of tools that are not idempotent, each time they took effect."""
        self.crashes = 0
        self.prompts: list[RecordedPrompt] = []
        self.violations: list[str] = []
        """What a model or a tool should never see. Raised here it would be taken for a crash."""
        self._model_calls: dict[int, tuple[PendingCall, OnChunk]] = {}
        self._tool_calls: list[PendingCall] = []
        self._ids = ids

    def act_on_model_call(self, operation: ModelAction) -> None:
        if not self._model_calls:
            return
        call, say = list(self._model_calls.values())[operation.call % len(self._model_calls)]
        if call.action_given.is_set():
            return
        match operation.action:
            case "say":
                call.text += "wörd "
                say(TextChunk("wörd "))
            case "think":
                call.thinking += "🤔"
                say(ThinkingChunk("🤔"))
            case does:
                call.give_action(does)

    def act_on_tool_call(self, operation: ToolAction) -> None:
        if self._tool_calls:
            self._tool_calls[operation.call % len(self._tool_calls)].give_action(operation.action)

    def open_prompts(self) -> list[RecordedPrompt]:
        """What the models were shown that have not answered yet."""
        return [[shown for shown in self.prompts if shown.session == session][-1] for session in self._model_calls]

    def set_auto_action(self, action: Literal["answer", "call tools"] = "answer") -> None:
        self.auto_action = action
        for call, _ in self._model_calls.values():
            call.give_action(call.action or action)
        for call in self._tool_calls:
            call.give_action(call.action or "return")

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        messages = request.history.messages
        session = session_of(messages)
        self.prompts.append(RecordedPrompt(session, [*messages]))
        self.violations += [f"{refused} in {messages}" for refused in violations(messages)]
        if session in self._model_calls:
            self.violations.append(f"session {session} runs two turns at a time")
        call = PendingCall()
        self._model_calls[session] = call, on_chunk
        try:
            if self.auto_action:
                call.give_action(self.auto_action)
            await call.action_given.wait()
        finally:
            del self._model_calls[session]
        return self._build_reply(call, on_chunk)

    def _build_reply(self, call: PendingCall, say: OnChunk) -> Reply:
        match call.action:
            case "fail":
                raise ModelFailed("provider_overloaded", "too busy")
            case "crash":
                self.crashes += 1
                raise InjectedCrash
            case "say nothing":
                return Reply(content=call.text, thinking=call.thinking, usage=USAGE, cost_usd=COST_USD)
            case "call tools":
                asked = tuple(ToolCall(f"c{next(self._ids)}", name, {}) for name in ("look", "look", "touch"))
                return Reply(
                    content=call.text,
                    thinking=call.thinking,
                    calls=asked,
                    finish="tool_calls",
                    usage=USAGE,
                    cost_usd=COST_USD,
                )
            case _:
                say(TextChunk("answer"))
                text = call.text + "answer"
                return Reply(content=text, thinking=call.thinking, usage=USAGE, cost_usd=COST_USD)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.record_started(None)
        await trio.lowlevel.checkpoint_if_cancelled()
        if request.call.name == TOUCH.name:
            self.effects.append(request.call.id)
        call = PendingCall()
        self._tool_calls.append(call)
        try:
            if self.auto_action:
                call.give_action("return")
            await call.action_given.wait()
        finally:
            self._tool_calls.remove(call)
        if call.action == "crash":
            self.crashes += 1
            raise InjectedCrash
        return await self._build_result(request)

    async def _build_result(self, request: ToolRequest) -> ToolResult:
        call = request.call
        match int(call.id[1:]) % 3:
            case 0:
                return ToolResult(call_id=call.id, name=call.name, output="seen")
            case 1:
                return ToolResult(call_id=call.id, name=call.name, output=LONG_TEXT)
            case _:
                ref = await request.store_output(FULL_OUTPUT.body)
                return ToolResult(call_id=call.id, name=call.name, output="se…", truncated=True, ref=ref)


def session_of(messages: Sequence[Message]) -> int:
    """Every message of the machine begins with the number of its session; those before the last may be inherited,
    or imported."""
    said = [plain_text(message.content) for message in messages if isinstance(message, User)]
    return int([text for text in said if not text.startswith("From walrusd:")][-1].split()[0])
