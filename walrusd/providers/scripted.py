"""A model that plays a script: for tests of agents, tools and clients that need to know what the model will say.

A script is a TOML file (`path` of a provider of kind "scripted"), or the same as Python objects: `Scripted(replies)`.
docs/scripted.md has its keys, and which reply is played when: that follows from the conversation alone.
"""

import tomllib
from collections.abc import Iterable, Sequence

import msgspec
import trio
from msgspec import Struct

from walrus_protocol.content import Assistant, Finish, Message, ToolCall, TurnErrorKind, Usage, User, plain_text
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply, TextChunk, ThinkingChunk


class ScriptedCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`id` "" makes one that is not given twice in a session."""

    name: str
    arguments: dict[str, object] | str = {}
    id: str = ""


class ScriptedError(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: TurnErrorKind = "provider_overloaded"
    message: str = "The script says so."
    hint: str = ""


class ScriptedReply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer to one model call. It is said first; then it ends, fails or hangs."""

    text: str = ""
    pieces: tuple[str, ...] = ()
    thinking: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    finish: Finish | None = None
    """None: tool_calls or stop."""
    usage: Usage = Usage()
    cost_usd: float = 0.0
    delay_s: float = 0.0
    error: ScriptedError | None = None
    hang: bool = False
    when: str | None = None


class _Script(Struct, forbid_unknown_fields=True):
    reply: tuple[ScriptedReply, ...] = ()


class Scripted:
    """Plays replies that are given. Fills the Model port, so a Runtime takes it as it is."""

    def __init__(self, replies: Iterable[ScriptedReply]) -> None:
        self._replies = tuple(replies)

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        """Raises ModelFailed where the script says so, and at its end."""
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
    """Plays a script from a file, which is read at its first use; a broken one is read again at the next."""

    def __init__(self, path: str) -> None:
        self._path = trio.Path(path)
        self._script: Scripted | None = None

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        if self._script is None:
            self._script = Scripted(await self._read())
        return await self._script.reply(request, on_chunk)

    async def _read(self) -> tuple[ScriptedReply, ...]:
        try:
            text = await self._path.read_text(encoding="utf-8")
            return msgspec.convert(tomllib.loads(text), _Script).reply
        except (OSError, ValueError) as wrong:
            hint = "docs/scripted.md says what a script may hold."
            raise ModelFailed("model_not_found", f"The script {self._path} cannot be played: {wrong}", hint) from wrong


def choose_reply(replies: Sequence[ScriptedReply], messages: Sequence[Message]) -> ScriptedReply:
    """The reply that is due after these messages. Raises ModelFailed at the end of the script."""
    rules = tuple(reply.when for reply in replies if reply.when is not None)
    by_rule, rounds, played = False, 0, 0
    before: Message | None = None
    for message in messages:
        match message:
            case User(content):
                if isinstance(before, User) and not by_rule:
                    played += 1  # the call after the message before left no message
                text = plain_text(content)
                by_rule, rounds = any(when in text for when in rules), 0
            case Assistant():
                rounds += 1
                played += not by_rule
            case _:
                pass
        before = message
    if by_rule:
        due = [reply for reply in replies if reply.when is not None and reply.when in text]
    else:
        due, rounds = [reply for reply in replies if reply.when is None], played
    if rounds >= len(due):
        raise ModelFailed(
            "provider_bad_response",
            f"The script is at its end: it has {len(due)} replies for this, and this is call {rounds + 1}.",
            "Add a [[reply]] to it.",
        )
    return due[rounds]
