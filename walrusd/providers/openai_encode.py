"""Encodes requests of the OpenAI chat-completions wire. Pure; openai_decode decodes the answers.

A message is encoded once and the history caches its bytes; a request joins those bytes. No two messages are merged: on
this wire each tool result is a message with a role of its own. Extra fields are not sent:
many compatible servers reject fields that they do not know.
"""

from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType

from walrus_protocol.content import (
    Assistant,
    Content,
    FilePart,
    ImagePart,
    Message,
    Part,
    TextPart,
    ToolCall,
    ToolOutput,
    ToolSchema,
    User,
    plain_text,
)
from walrusd.ports import EncodedMessage, ModelRequest


class _FunctionCall(Struct):
    name: str
    arguments: str


class _ToolCall(Struct):
    id: str
    function: _FunctionCall
    type: str = "function"


class _SystemMessage(Struct, tag_field="role", tag="system"):
    content: str


class _UserMessage(Struct, tag_field="role", tag="user"):
    content: str | list[dict[str, object]]


class _AssistantMessage(Struct, kw_only=True, tag_field="role", tag="assistant"):
    content: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[_ToolCall] | UnsetType = UNSET


class _ToolMessage(Struct, tag_field="role", tag="tool"):
    tool_call_id: str
    content: str


class _ToolFunction(Struct):
    name: str
    description: str
    parameters: dict[str, object]


class _ToolSchema(Struct):
    function: _ToolFunction
    type: str = "function"


class _StreamOptions(Struct, frozen=True):
    include_usage: bool = True


class _JsonSchema(Struct):
    schema: dict[str, object]
    name: str = "response"


class _ResponseFormat(Struct):
    json_schema: _JsonSchema
    type: str = "json_schema"


class _RequestOptions(Struct, kw_only=True):
    """All fields of a request except its messages and tools."""

    model: str
    max_tokens: int | UnsetType = UNSET
    max_completion_tokens: int | UnsetType = UNSET
    reasoning_effort: str | UnsetType = UNSET
    response_format: _ResponseFormat | UnsetType = UNSET
    stream: bool = True
    stream_options: _StreamOptions = _StreamOptions()


_encode = msgspec.json.Encoder().encode


def message_encoder(provider: str) -> Callable[[Message], EncodedMessage]:
    """Returns the message encoder of one provider; opaque data goes back only to its own provider."""

    def encode(message: Message) -> EncodedMessage:
        match message:
            case User(content):
                return EncodedMessage("user", _encode(_UserMessage(_user_content(content))))
            case Assistant():
                return EncodedMessage("assistant", _encode(_assistant_message(message, provider)))
            case ToolOutput():
                return EncodedMessage("tool", _encode(_ToolMessage(message.call_id, message.output)))

    return encode


def request_body(
    request: ModelRequest, messages: Sequence[EncodedMessage], *, use_max_completion_tokens: bool
) -> bytes:
    """Returns the bytes of a request.

    `use_max_completion_tokens` sends the token cap under OpenAI's newer name. Tools are encoded again for each
    request: twenty of them take some 30 µs, so a cache would save nothing.
    """
    settings = _RequestOptions(model=request.model)
    if request.max_output_tokens is not None and use_max_completion_tokens:
        settings.max_completion_tokens = request.max_output_tokens
    elif request.max_output_tokens is not None:
        settings.max_tokens = request.max_output_tokens
    if request.thinking:
        settings.reasoning_effort = "medium"
    if request.response_schema is not None:
        settings.response_format = _ResponseFormat(_JsonSchema(request.response_schema))
    system = [_encode(_SystemMessage(request.system))] if request.system else []
    encoded = b",".join([*system, *[message.blocks for message in messages]])
    parts = [_encode(settings)[:-1], b',"messages":[', encoded, b"]"]
    if request.tools:
        parts += [b',"tools":', _encode([_tool_schema(schema) for schema in request.tools])]
    return b"".join([*parts, b"}"])


def _assistant_message(message: Assistant, provider: str) -> _AssistantMessage:
    encoded = _AssistantMessage(content=plain_text(message.content) or None)
    opaque = message.opaque or {}
    if opaque.get("provider") == provider and opaque.get("thinking_as") == "reasoning_content":
        encoded.reasoning_content = message.thinking
    if message.calls:
        encoded.tool_calls = [_tool_call(call) for call in message.calls]
    elif encoded.content is None:
        encoded.content = ""  # null means "only calls"; strict servers reject null if there are no calls
    return encoded


def _tool_call(call: ToolCall) -> _ToolCall:
    arguments = call.arguments if isinstance(call.arguments, str) else _encode(call.arguments).decode()
    return _ToolCall(call.id, _FunctionCall(call.name, arguments))


def _user_content(content: Content) -> str | list[dict[str, object]]:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: Part) -> dict[str, object]:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ImagePart():
            return {"type": "image_url", "image_url": {"url": part.url or _data_url(part.media_type, part.data)}}
        case FilePart():
            data = _data_url(part.media_type, part.data)
            return {"type": "file", "file": {"filename": part.name, "file_data": data}}


def _data_url(media_type: str, data: str) -> str:
    return f"data:{media_type};base64,{data}"


def _tool_schema(schema: ToolSchema) -> _ToolSchema:
    return _ToolSchema(_ToolFunction(schema.name, schema.description, schema.parameters))
