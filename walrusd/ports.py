"""Interfaces (Protocols) between packages of walrusd that must not import each other.

This is walrusd's lowest layer: it imports the types of walrus_protocol and nothing else of walrusd.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

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
    """A streamed piece of a reply's text."""

    text: str


class ThinkingChunk(Struct, frozen=True):
    """A streamed piece of a reply's thinking."""

    text: str


ReplyChunk = TextChunk | ThinkingChunk
OnChunk = Callable[[ReplyChunk], None]
"""Receives each chunk while a reply streams.

Never blocks and never raises: slow readers must not slow the model.
"""


class EncodedMessage(Struct, frozen=True):
    """A message in the format of one wire: the role that the wire gives it, and the bytes of its content blocks.

    A wire may merge neighbours of one role into one message. If it sends each message separately, `blocks` may be the
    whole message.
    """

    role: str
    blocks: bytes


class RenderedHistory(Protocol):
    """A history that encodes each message once for each wire, regardless of how many rounds send it."""

    @property
    def messages(self) -> Sequence[Message]: ...

    def render(self, wire: str, encode: Callable[[Message], EncodedMessage]) -> Sequence[EncodedMessage]:
        """Returns all messages, encoded by `encode`; results are cached under the name `wire`."""


Purpose = Literal["turn", "compaction", "title", "infer"]
"""The reason of a model call, for the accounts of what was spent on what."""


class ModelRequest(Struct, frozen=True, kw_only=True):
    """A complete request to a model."""

    model: str
    """The model as the agent names it: a model's name, or provider/model."""
    system: str
    history: RenderedHistory
    tools: tuple[ToolSchema, ...] = ()
    thinking: bool = False
    max_output_tokens: int | None = None
    """The maximum number of tokens of the answer; None means the limit that is configured for the model, if any."""
    response_schema: dict[str, object] | None = None
    """The JSON schema that the answer's text must fit."""
    purpose: Purpose


class Reply(Struct, frozen=True, kw_only=True):
    """A model's complete answer.

    If the provider reported no usage, `usage` is zero and `cost_usd` is None.
    """

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
    """An expected failure of a model call; it ends the turn with `done {error}`."""

    def __init__(self, kind: TurnErrorKind, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.error = TurnError(kind, message, hint)


class Model(Protocol):
    """Something that answers model requests: a provider, or a router in front of several."""

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        """Returns the answer to one request. Cancelling it ends the exchange at once. Raises ModelFailed."""


class ToolRequest(Struct, frozen=True, kw_only=True):
    """One tool call and the callbacks that its execution needs.

    `record_started` records the intent: it is awaited after the last check and before the first effect, and never for
    a refused call. `store_output` stores an output that is too long to show to a model, and returns its ref; it is
    awaited before the result is returned. `on_output` receives the output of a long tool while it runs; it never
    blocks and never raises.
    """

    session: int
    turn: int
    agent: str
    call: ToolCall
    schema: ToolSchema | None
    """The tool's schema when the agent was built; None for a tool that the agent was not offered."""
    workspace: str
    record_started: Callable[[ProcessGroupId | None], Awaitable[None]]
    store_output: Callable[[bytes], Awaitable[str]]
    on_output: Callable[[str], None]


class ToolRun(Struct, frozen=True, kw_only=True):
    """The input of a tool's execution. `arguments` fit the tool's schema."""

    session: int
    agent: str
    arguments: dict[str, object]
    workspace: str


Dispatch = Callable[[ToolRequest], Awaitable[ToolResult]]
"""Runs a tool call: every check, then the tool. Expected failures are results, never exceptions."""


class Tool(Protocol):
    """A tool that runs inside the daemon: a schema and an implementation that returns text."""

    @property
    def schema(self) -> ToolSchema: ...

    async def execute(self, run: ToolRun) -> str:
        """Returns the output. Raises ToolFailed."""


class Command(Struct, frozen=True, kw_only=True):
    """A process that a tool requests. The daemon chooses the environment.

    `timeout_s` is the limit that the call asks for; the tool's own limit applies as well.
    """

    argv: tuple[str, ...]
    cwd: str
    timeout_s: float | None = None


@runtime_checkable
class ProcessTool(Protocol):
    """A tool that runs as a process: it builds the command, and the dispatch pipeline runs the process."""

    @property
    def schema(self) -> ToolSchema: ...

    def command(self, run: ToolRun) -> Command:
        """Returns the command to run. Raises ToolFailed."""


class WallClock(Protocol):
    """The wall clock, for times that a person means, such as eight o'clock.

    It can be set forwards and backwards.
    """

    def now(self) -> float:
        """Returns the time in Unix seconds."""

    async def wait_until(self, when: float) -> None:
        """Waits until `when` (Unix seconds), or returns early if the clock was set: callers check `now` again."""


class ToolFailed(Exception):
    """A tool failed to do its work; the text is for the model, which may then try something else."""
