"""The model and the tools of the machine: every word is an order's, and what providers insist on is checked."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import trio

from tests.fakes.validators import complaints
from tests.runtime.machine_orders import Speak, Work
from walrus_protocol.content import Message, ToolCall, ToolSchema, Usage, User, plain_text
from walrus_protocol.events import ToolResult
from walrusd.ports import ModelFailed, ModelRequest, Reply, Say, TextSaid, ThinkingSaid, ToolRequest
from walrusd.store.log import Output

LOOK = ToolSchema(name="look", description="Look.", parameters={"type": "object"}, read_only=True, idempotent=True)
TOUCH = ToolSchema(name="touch", description="Touch.", parameters={"type": "object"})
USAGE = Usage(input=3, output=1)
COST_USD = 0.5
LONG = "seen, and seen again\n" * 300
"""So long that a store keeps it beside the event, once for all that say it."""
WHOLE = Output.of(b"seen whole\n" * 500)
"""What is kept of an output that the model is shown in part."""


class Bug(Exception):
    """One that a model or a tool has by order."""


class Call:
    """A model call or a tool call that waits for its order."""

    def __init__(self) -> None:
        self.text = ""
        self.thinking = ""
        self.does = ""
        self.told = trio.Event()

    def tell(self, does: str) -> None:
        self.does = does
        self.told.set()


class Shown(NamedTuple):
    """What a model was asked with."""

    session: int
    messages: list[Message]


class Puppet:
    """Of one life. `ids` gives those of tool calls, none of them twice in a story."""

    def __init__(self, ids: Iterator[int]) -> None:
        self.alone: Literal["answer", "call tools"] | None = None
        """What it does by itself, whenever it is asked."""
        self.effects: list[str] = []
        """The ids of the calls of tools that are not idempotent, each time they took effect."""
        self.crashes = 0
        self.shown: list[Shown] = []
        self.wrongs: list[str] = []
        """What a model or a tool should never see. Raised here it would be taken for a crash."""
        self._speaking: dict[int, tuple[Call, Say]] = {}
        self._working: list[Call] = []
        self._ids = ids

    def speak(self, order: Speak) -> None:
        if not self._speaking:
            return
        call, say = list(self._speaking.values())[order.call % len(self._speaking)]
        if call.told.is_set():
            return
        match order.does:
            case "say":
                call.text += "wörd "
                say(TextSaid("wörd "))
            case "think":
                call.thinking += "🤔"
                say(ThinkingSaid("🤔"))
            case does:
                call.tell(does)

    def work(self, order: Work) -> None:
        if self._working:
            self._working[order.call % len(self._working)].tell(order.does)

    def under_way(self) -> list[Shown]:
        """What the models were shown that have not answered yet."""
        return [[shown for shown in self.shown if shown.session == session][-1] for session in self._speaking]

    def by_itself(self, does: Literal["answer", "call tools"] = "answer") -> None:
        self.alone = does
        for call, _ in self._speaking.values():
            call.tell(call.does or does)
        for call in self._working:
            call.tell(call.does or "return")

    async def reply(self, request: ModelRequest, say: Say) -> Reply:
        messages = request.history.messages
        session = session_of(messages)
        self.shown.append(Shown(session, [*messages]))
        self.wrongs += [f"{refused} in {messages}" for refused in complaints(messages)]
        if session in self._speaking:
            self.wrongs.append(f"session {session} runs two turns at a time")
        call = Call()
        self._speaking[session] = call, say
        try:
            if self.alone:
                call.tell(self.alone)
            await call.told.wait()
        finally:
            del self._speaking[session]
        return self._answer(call, say)

    def _answer(self, call: Call, say: Say) -> Reply:
        match call.does:
            case "fail":
                raise ModelFailed("provider_overloaded", "too busy")
            case "crash":
                self.crashes += 1
                raise Bug
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
                say(TextSaid("answer"))
                text = call.text + "answer"
                return Reply(content=text, thinking=call.thinking, usage=USAGE, cost_usd=COST_USD)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        await request.started(None)
        await trio.lowlevel.checkpoint_if_cancelled()
        if request.call.name == TOUCH.name:
            self.effects.append(request.call.id)
        call = Call()
        self._working.append(call)
        try:
            if self.alone:
                call.tell("return")
            await call.told.wait()
        finally:
            self._working.remove(call)
        if call.does == "crash":
            self.crashes += 1
            raise Bug
        return await self._seen(request)

    async def _seen(self, request: ToolRequest) -> ToolResult:
        call = request.call
        match int(call.id[1:]) % 3:
            case 0:
                return ToolResult(call_id=call.id, name=call.name, output="seen")
            case 1:
                return ToolResult(call_id=call.id, name=call.name, output=LONG)
            case _:
                ref = await request.keep(WHOLE.body)
                return ToolResult(call_id=call.id, name=call.name, output="se…", truncated=True, ref=ref)


def session_of(messages: Sequence[Message]) -> int:
    """Every message of the machine begins with the number of its session; those before the last may be inherited,
    or imported."""
    said = [plain_text(message.content) for message in messages if isinstance(message, User)]
    return int([text for text in said if not text.startswith("From walrusd:")][-1].split()[0])
