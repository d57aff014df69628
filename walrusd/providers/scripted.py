"""The scripted provider: a model that plays prepared replies, for tests of agents, tools and clients.

A script is a TOML file (`path` of a provider of kind "scripted"), or the same as Python objects: `Scripted(replies)`.
docs/scripted.md documents its keys and which reply is played when; that depends on the conversation alone.
"""

import tomllib
from collections.abc import Iterable, Sequence

import msgspec
import trio
from msgspec import Struct

from walrus_protocol.content import Assistant, Finish, Message, ToolCall, TurnErrorKind, Usage, User, plain_text
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply, TextChunk, ThinkingChunk


class ScriptedCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool call of a scripted reply. If `id` is empty, an id that is unique in the session is generated."""

    name: str
    arguments: dict[str, object] | str = {}
    id: str = ""


class ScriptedError(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The error that a scripted reply ends with."""

    kind: TurnErrorKind = "provider_overloaded"
    message: str = "This error is in the script."
    hint: str = ""


class ScriptedReply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One reply to one model call. Its thinking and text are streamed first; then it ends, fails or hangs."""

    text: str = ""
    pieces: tuple[str, ...] = ()
    thinking: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    finish: Finish | None = None
    """None: `tool_calls` if there are calls, else `stop`."""
    usage: Usage = Usage()
    cost_usd: float = 0.0
    delay_s: float = 0.0
    error: ScriptedError | None = None
    hang: bool = False
    when: str | None = None


class _Script(Struct, forbid_unknown_fields=True):
    reply: tuple[ScriptedReply, ...] = ()


class Scripted:
    """Implements the Model port with a list of replies; a program that uses walrusd as a library needs no provider."""

    def __init__(self, replies: Iterable[ScriptedReply]) -> None:
        self._replies = tuple(replies)

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        """Returns the reply that is due. Raises ModelFailed for a scripted error, and after the last reply."""
        messages = request.history.messages
        scripted = choose_reply(self._replies, messages)
        await trio.sleep(scripted.delay_s)
        if scripted.thinking:
            on_chunk(ThinkingChunk(scripted.thinking))
        pieces = scripted.pieces or ((scripted.text,) if scripted.text else ())
        for piece in pieces:
            on_chunk(TextChunk(piece))
            await trio.lowlevel.checkpoint()
        if scripted.hang:
            await trio.sleep_forever()
        if scripted.error is not None:
            raise ModelFailed(scripted.error.kind, scripted.error.message, scripted.error.hint)
        calls = tuple(
            ToolCall(call.id or f"call_{len(messages)}_{number}", call.name, call.arguments)
            for number, call in enumerate(scripted.calls)
        )
        return Reply(
            content="".join(pieces),
            thinking=scripted.thinking,
            calls=calls,
            model=request.model,
            provider="scripted",
            finish=scripted.finish or ("tool_calls" if calls else "stop"),
            usage=scripted.usage,
            cost_usd=scripted.cost_usd,
        )


class ScriptFile:
    """Implements the Provider port with a script file, read at first use and again after a failed read."""

    def __init__(self, path: str) -> None:
        self._path = trio.Path(path)
        self._script: Scripted | None = None

    async def exchange(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        if self._script is None:
            self._script = Scripted(await self._read())
        return await self._script.reply(request, on_chunk)

    async def _read(self) -> tuple[ScriptedReply, ...]:
        try:
            text = await self._path.read_text(encoding="utf-8")
            return msgspec.convert(tomllib.loads(text), _Script).reply
        except (OSError, ValueError) as error:
            hint = "Fix the file; docs/scripted.md documents the format."
            raise ModelFailed("model_not_found", f"The script {self._path} cannot be read: {error}", hint) from error


def choose_reply(replies: Sequence[ScriptedReply], messages: Sequence[Message]) -> ScriptedReply:
    """Returns the reply that is due after these messages. Raises ModelFailed if there is none left."""
    rules = tuple(reply.when for reply in replies if reply.when is not None)
    by_rule, rounds, played = False, 0, 0
    previous: Message | None = None
    for message in messages:
        match message:
            case User(content):
                if isinstance(previous, User) and not by_rule:
                    played += 1  # the call for the previous message produced no message
                text = plain_text(content)
                by_rule, rounds = any(when in text for when in rules), 0
            case Assistant():
                rounds += 1
                played += not by_rule
            case _:
                pass
        previous = message
    if by_rule:
        due = [reply for reply in replies if reply.when is not None and reply.when in text]
    else:
        due, rounds = [reply for reply in replies if reply.when is None], played
    if rounds >= len(due):
        raise ModelFailed(
            "provider_bad_response",
            f"The script has no reply left: it has {len(due)} for this message, and this is call {rounds + 1}.",
            "Add a [[reply]] to the script.",
        )
    return due[rounds]
