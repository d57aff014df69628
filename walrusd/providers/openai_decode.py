"""Decodes answers of the OpenAI wire, streamed or whole, into reply chunks and a Reply. Pure.

It accepts what servers do differently if the meaning is clear: calls without an index or an id, duplicate ids,
arguments as an object, thinking as `reasoning_content` or `reasoning`, a whole message instead of a stream.
"""

from msgspec import Struct

from walrus_protocol.content import Finish, ToolCall, Usage
from walrus_protocol.json import BadJson, Decoder
from walrusd.ports import Reply, ReplyChunk, TextChunk, ThinkingChunk

MAX_TEXT = 3 * 1024 * 1024
"""Maximum code points of one answer: at most 12 MiB as UTF-8, which fits a frame of the protocol."""


class _FunctionDelta(Struct):
    name: str | None = None
    arguments: str | dict[str, object] | None = None


class _ToolCallDelta(Struct):
    index: int | None = None
    id: str | None = None
    function: _FunctionDelta | None = None


class _Delta(Struct):
    """The content that a chunk adds, or a whole message: the fields are the same."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCallDelta] | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(Struct):
    cached_tokens: int | None = None


class _CompletionDetails(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: object = None


class MalformedReply(Exception):
    """The data is not a valid answer of this wire, or is too large."""


class ErrorInStream(Exception):
    """The server reported an error inside its answer; `body` is the JSON that contains it."""

    def __init__(self, body: bytes) -> None:
        super().__init__("an error in the stream")
        self.body = body


class _PartialCall:
    """One tool call, assembled from its deltas."""

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.argument_pieces: list[str] = []
        self.object_arguments: dict[str, object] | None = None

    def add(self, call: _ToolCallDelta) -> None:
        self.id = self.id or call.id or ""
        function = call.function
        if function is None:
            return
        if function.name and function.name != self.name:  # some servers repeat the whole name in every chunk
            self.name += function.name
        if isinstance(function.arguments, str):
            self.argument_pieces.append(function.arguments)
        elif function.arguments is not None:
            self.object_arguments = function.arguments

    def decode_arguments(self) -> dict[str, object] | str:
        if self.object_arguments is not None:
            return self.object_arguments
        text = "".join(self.argument_pieces)
        if not text.strip():
            return {}  # models often send no text to call a tool without parameters
        try:
            return _object_decoder.decode(text)
        except BadJson:
            return text


_chunk_decoder = Decoder(_Chunk)
_object_decoder = Decoder(dict[str, object])
_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "length": "length",
    "content_filter": "refused",
}


class ReplyDecoder:
    """Assembles one answer. `call_id_prefix` begins the generated ids of calls that came without an id."""

    def __init__(self, provider: str, call_id_prefix: str) -> None:
        self._provider = provider
        self._call_id_prefix = call_id_prefix
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._size = 0
        self._has_reasoning_content = False
        self._refused = False
        self._calls: list[_PartialCall] = []
        self._finish: str | None = None
        self._usage = Usage()
        self.started = False
        """True once a choice has arrived, even an empty one."""
        self.done_received = False
        """True once the server has sent [DONE]."""

    @property
    def is_complete(self) -> bool:
        """Returns whether the content is complete; only the usage may still be missing."""
        return self.done_received or self._finish is not None

    def add(self, data: bytes, chunks: list[ReplyChunk]) -> None:
        """Adds the data of one event, or a whole answer, and appends its chunks to `chunks`.

        Raises MalformedReply and ErrorInStream.
        """
        if data == b"[DONE]":
            self.done_received = True
            return
        try:
            chunk = _chunk_decoder.decode(data)
        except BadJson as error:
            raise MalformedReply(str(error)) from error
        if chunk.error is not None:
            raise ErrorInStream(data)
        if chunk.usage is not None:
            self._usage = _to_usage(chunk.usage)
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._add_choice(choice, chunks)
        if self._size > MAX_TEXT:
            raise MalformedReply(f"it is longer than {MAX_TEXT:,} characters")

    def _add_choice(self, choice: _Choice, chunks: list[ReplyChunk]) -> None:
        self.started = True
        self._finish = choice.finish_reason or self._finish
        delta = choice.delta or choice.message
        if delta is None:
            return
        self._has_reasoning_content = self._has_reasoning_content or delta.reasoning_content is not None
        if thinking := delta.reasoning_content or delta.reasoning:
            self._size += len(thinking)
            self._thinking.append(thinking)
            chunks.append(ThinkingChunk(thinking))
        self._refused = self._refused or bool(delta.refusal)
        for text in (delta.content, delta.refusal):
            if text:
                self._size += len(text)
                self._text.append(text)
                chunks.append(TextChunk(text))
        for call in delta.tool_calls or ():
            if call.function is not None and isinstance(call.function.arguments, str):
                self._size += len(call.function.arguments)
            self._find_partial_call(call).add(call)

    def _find_partial_call(self, call: _ToolCallDelta) -> _PartialCall:
        """Returns the call that a delta belongs to, or a new one.

        Deltas are matched by index, and by id too, since some servers send the same index for all calls. Without an
        index, as in a whole message, a name begins a new call.
        """
        starts_new_call = call.index is None and call.function is not None and call.function.name
        for partial in () if starts_new_call else reversed(self._calls):
            same_index = call.index is None or call.index == partial.index
            if same_index and (not call.id or not partial.id or call.id == partial.id):
                return partial
        self._calls.append(_PartialCall(call.index))
        return self._calls[-1]

    def build_reply(self) -> Reply:
        """Returns the whole reply. Calls of a refused answer are omitted: they may be incomplete."""
        finish = _FINISH.get(self._finish or "", "stop")
        refused = self._refused or finish == "refused"
        calls = () if refused else self._build_calls()
        if refused:
            finish = "refused"
        elif finish != "length":
            finish = "tool_calls" if calls else "stop"
        return Reply(
            content="".join(self._text),
            thinking="".join(self._thinking),
            calls=calls,
            finish=finish,
            usage=self._usage,
            # Some servers reject a later request whose messages lack the thinking that they sent in this field.
            opaque={"provider": self._provider, "thinking_as": "reasoning_content"}
            if self._has_reasoning_content
            else None,
        )

    def _build_calls(self) -> tuple[ToolCall, ...]:
        calls: list[ToolCall] = []
        taken: set[str] = set()
        for number, partial in enumerate(self._calls):
            id_ = partial.id or f"{self._call_id_prefix}_{number}"
            while id_ in taken:
                id_ = f"{id_}_{number}"
            taken.add(id_)
            calls.append(ToolCall(id_, partial.name, partial.decode_arguments()))
        return tuple(calls)


def _to_usage(reported: _Usage) -> Usage:
    prompt, output = reported.prompt_tokens or 0, reported.completion_tokens or 0
    cached = min(prompt, (reported.prompt_tokens_details and reported.prompt_tokens_details.cached_tokens) or 0)
    reasoning = (reported.completion_tokens_details and reported.completion_tokens_details.reasoning_tokens) or 0
    return Usage(input=prompt - cached, output=output, cache_read=cached, reasoning=min(reasoning, output))
