"""The Protocols through which rooms that may not import each other are joined.

The bottom step of the stair: it knows the vocabulary of walrus_protocol and nothing of walrusd.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from walrus_protocol.content import (
    Content,
    Finish,
    Message,
    ToolCall,
    ToolSchema,
    TurnError,
    TurnErrorKind,
    Usage,
)
from walrus_protocol.events import ProcessGroupId, ToolResult

Clock = Callable[[], float]
"""Unix seconds."""


class TextChunk(Struct, frozen=True):
    """A piece of a reply's text, as it comes."""

    text: str


class ThinkingChunk(Struct, frozen=True):
    """A piece of a reply's thinking, as it comes."""

    text: str


ReplyChunk = TextChunk | ThinkingChunk
OnChunk = Callable[[ReplyChunk], None]
"""Told each piece while a reply streams. Never blocks and never raises: a slow reader is not the model's affair."""


class RenderedHistory(Protocol):
    """A history whose messages are encoded once for each wire, however many rounds send them."""

    @property
    def messages(self) -> Sequence[Message]: ...

    def render(self, wire: str, encode: Callable[[Message], bytes]) -> Sequence[bytes]:
        """All messages as `encode` gives them; `wire` names the encoding, under which earlier results are kept."""


class ModelRequest(Struct, frozen=True, kw_only=True):
    """One model call, whole."""

    model: str
    """As the agent names it: a model's name, or provider/model."""
    system: str
    history: RenderedHistory
    tools: tuple[ToolSchema, ...] = ()
    thinking: bool = False


class Reply(Struct, frozen=True, kw_only=True):
    """What a model answered. `usage` is zero and `cost_usd` null where the provider told nothing."""

    content: Content = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: Finish = "stop"
    model: str = ""
    provider: str = ""
    usage: Usage = Usage()
    cost_usd: float | None = None
    opaque: dict[str, object] | None = None


class ModelFailed(Exception):
    """An expected failure of a model call; a turn pays for it with `done {error}`."""

    def __init__(self, kind: TurnErrorKind, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.error = TurnError(kind, message, hint)


class Model(Protocol):
    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        """One answer. Cancelling it ends the exchange at once. Raises ModelFailed."""


class ToolRequest(Struct, frozen=True, kw_only=True):
    """One call on its way through the checks.

    `started` records the intent: it is awaited after the last check and before the first effect, and
    never for a call that is refused. `keep` writes down an output that is longer than a model is shown, and answers
    the ref under which it is found; it is awaited before the result is answered. `say` is told what a long tool says
    while it runs; it never blocks and never raises.
    """

    session: int
    turn: int
    agent: str
    call: ToolCall
    schema: ToolSchema | None
    """As it stood when the agent was built; None for a tool it was not offered."""
    workspace: str
    record_started: Callable[[ProcessGroupId | None], Awaitable[None]]
    store_output: Callable[[bytes], Awaitable[str]]
    on_output: Callable[[str], None]


class ToolRun(Struct, frozen=True, kw_only=True):
    """What a tool is told of the call it executes. `arguments` fit its schema."""

    session: int
    agent: str
    arguments: dict[str, object]
    workspace: str


Dispatch = Callable[[ToolRequest], Awaitable[ToolResult]]
"""The one way to a tool: every check, then the work. Expected failures are results, never exceptions."""


class Tool(Protocol):
    """A tool: its schema, and the work. Its output is text; ToolFailed carries what went wrong."""

    @property
    def schema(self) -> ToolSchema: ...

    async def execute(self, run: ToolRun) -> str:
        """The output. Raises ToolFailed."""


class Command(Struct, frozen=True, kw_only=True):
    """A process that a tool wants run. The environment is the daemon's to choose; `timeout_s` is what the call asks
    for, and the tool's own limit holds beside it."""

    argv: tuple[str, ...]
    cwd: str
    timeout_s: float | None = None


@runtime_checkable
class ProcessTool(Protocol):
    """A tool whose work is done by a process of its own: it says which, the pipeline runs it and ends it."""

    @property
    def schema(self) -> ToolSchema: ...

    def command(self, run: ToolRun) -> Command:
        """Raises ToolFailed."""


class WallClock(Protocol):
    """The time of day: what a person means by eight o'clock. It may be set, forwards and backwards."""

    def now(self) -> float:
        """Unix seconds."""

    async def wait_until(self, when: float) -> None:
        """Wait for that time of day; return early, too, where the clock was set meanwhile: look at `now` again."""


class ToolFailed(Exception):
    """A tool could not do what it was asked; the text is for the model, which may try another way."""
