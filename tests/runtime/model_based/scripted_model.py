"""The model and the tools of the tested runtimes, controlled by operations; validates every prompt."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import trio

from tests.fakes.validators import violations
from tests.runtime.model_based.operations import ModelAction, ToolAction
from walrus_protocol.content import Message, ToolCall, ToolSchema, Usage, User, plain_text
from walrus_protocol.events import ToolResult
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply, TextChunk, ThinkingChunk, ToolRequest
from walrusd.store.tables.output import StoredOutput

LOOK = ToolSchema(name="look", description="Look.", parameters={"type": "object"}, read_only=True, idempotent=True)
TOUCH = ToolSchema(name="touch", description="Touch.", parameters={"type": "object"})
USAGE = Usage(input=3, output=1)
COST_USD = 0.5
LONG_TEXT = "seen, and seen again\n" * 300
"""A text so long that a store keeps it outside the event, once for all events that contain it."""
FULL_OUTPUT = StoredOutput.from_body(b"seen whole\n" * 500)
"""The stored output of a call whose result is truncated."""


class InjectedCrash(Exception):
    """A crash of a model or a tool that an operation asked for."""


class PendingCall:
    """A model call or a tool call that waits for its action."""

    def __init__(self) -> None:
        self.text = ""
        self.thinking = ""
        self.action = ""
        self.action_given = trio.Event()

    def give_action(self, action: str) -> None:
        self.action = action
        self.action_given.set()


class RecordedPrompt(NamedTuple):
    """The messages of one model call."""

    session: int
    messages: list[Message]


class ScriptedModel:
    """The model and the tools of one run. `ids` yields the numbers of tool calls, unique in a scenario."""

    def __init__(self, ids: Iterator[int]) -> None:
        self.auto_action: Literal["answer", "call tools"] | None = None
        """The action of every call that no operation gave one."""
        self.effects: list[str] = []
        """Ids of calls of tools that are not idempotent, one for each effect."""
        self.crashes = 0
        self.prompts: list[RecordedPrompt] = []
        self.violations: list[str] = []
        """Prompts and calls that should never occur. An exception here would count as an injected crash."""
        self._model_calls: dict[int, tuple[PendingCall, OnChunk]] = {}
        self._tool_calls: list[PendingCall] = []
        self._ids = ids

    def act_on_model_call(self, operation: ModelAction) -> None:
        """Gives the action to a waiting model call, if there is one."""
        if not self._model_calls:
            return
        call, on_chunk = list(self._model_calls.values())[operation.call % len(self._model_calls)]
        if call.action_given.is_set():
            return
        match operation.action:
            case "text chunk":
                call.text += "wörd "
                on_chunk(TextChunk("wörd "))
            case "thinking chunk":
                call.thinking += "🤔"
                on_chunk(ThinkingChunk("🤔"))
            case action:
                call.give_action(action)

    def act_on_tool_call(self, operation: ToolAction) -> None:
        """Gives the action to a waiting tool call, if there is one."""
        if self._tool_calls:
            self._tool_calls[operation.call % len(self._tool_calls)].give_action(operation.action)

    def open_prompts(self) -> list[RecordedPrompt]:
        """Returns the prompts of the model calls that are not answered yet."""
        return [[prompt for prompt in self.prompts if prompt.session == session][-1] for session in self._model_calls]

    def set_auto_action(self, action: Literal["answer", "call tools"] = "answer") -> None:
        """Gives the action to waiting and later model calls; tool calls return."""
        self.auto_action = action
        for call, _ in self._model_calls.values():
            call.give_action(call.action or action)
        for call in self._tool_calls:
            call.give_action(call.action or "return")

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        messages = request.history.messages
        session = session_of(messages)
        self.prompts.append(RecordedPrompt(session, [*messages]))
        self.violations += [f"{violation} in {messages}" for violation in violations(messages)]
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

    def _build_reply(self, call: PendingCall, on_chunk: OnChunk) -> Reply:
        match call.action:
            case "fail":
                raise ModelFailed("provider_overloaded", "too busy")
            case "crash":
                self.crashes += 1
                raise InjectedCrash
            case "empty answer":
                return Reply(content=call.text, thinking=call.thinking, usage=USAGE, cost_usd=COST_USD)
            case "call tools":
                calls = tuple(ToolCall(f"c{next(self._ids)}", name, {}) for name in ("look", "look", "touch"))
                return Reply(
                    content=call.text,
                    thinking=call.thinking,
                    calls=calls,
                    finish="tool_calls",
                    usage=USAGE,
                    cost_usd=COST_USD,
                )
            case _:
                on_chunk(TextChunk("answer"))
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
    """Returns the session of a prompt, with which the last message of a client begins.

    Earlier messages may be inherited or imported, and begin with the numbers of other sessions.
    """
    texts = [plain_text(message.content) for message in messages if isinstance(message, User)]
    return int([text for text in texts if not text.startswith("From walrusd:")][-1].split()[0])
