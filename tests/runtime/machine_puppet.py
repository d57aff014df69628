"""The model and the tools of the machine: every word is an order's, and what providers insist on is checked."""

from collections.abc import Iterator, Sequence

import trio

from tests.fakes.validators import complaints
from tests.runtime.machine_orders import Speak, Work
from walrus_protocol.content import Message, ToolCall, ToolSchema, User, plain_text
from walrus_protocol.events import ToolResult
from walrusd.ports import ModelFailed, ModelRequest, Reply, Say, TextSaid, ThinkingSaid, ToolRequest

LOOK = ToolSchema(name="look", description="Look.", parameters={"type": "object"}, read_only=True, idempotent=True)
TOUCH = ToolSchema(name="touch", description="Touch.", parameters={"type": "object"})


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


class Puppet:
    """Of one life. `ids` gives those of tool calls, none of them twice in a story."""

    def __init__(self, ids: Iterator[int]) -> None:
        self.alone = False
        """It answers by itself."""
        self.effects: list[str] = []
        """The ids of the calls of tools that are not idempotent, each time they took effect."""
        self.crashes = 0
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

    def by_itself(self) -> None:
        self.alone = True
        for call, _ in self._speaking.values():
            call.tell(call.does or "answer")
        for call in self._working:
            call.tell(call.does or "return")

    async def reply(self, request: ModelRequest, say: Say) -> Reply:
        messages = request.history.messages
        session = session_of(messages)
        self.wrongs += [f"{refused} in {messages}" for refused in complaints(messages)]
        if session in self._speaking:
            self.wrongs.append(f"session {session} runs two turns at a time")
        call = Call()
        self._speaking[session] = call, say
        try:
            if self.alone:
                call.tell("answer")
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
                return Reply(content=call.text, thinking=call.thinking, cost_usd=0.0)
            case "call tools":
                asked = tuple(ToolCall(f"c{next(self._ids)}", name, {}) for name in ("look", "look", "touch"))
                return Reply(content=call.text, thinking=call.thinking, calls=asked, finish="tool_calls", cost_usd=0.0)
            case _:
                say(TextSaid("answer"))
                return Reply(content=call.text + "answer", thinking=call.thinking, cost_usd=0.0)

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
        return ToolResult(call_id=request.call.id, name=request.call.name, output="seen")


def session_of(messages: Sequence[Message]) -> int:
    """Every message of the machine begins with the number of its session."""
    first = messages[0]
    assert isinstance(first, User)
    return int(plain_text(first.content).split()[0])
