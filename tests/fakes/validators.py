"""Checks the messages of a request against the rules of providers.

Each violation is described by a text.
The checks are stricter than any single server: no server refuses messages that pass here.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from walrus_protocol.content import Assistant, Content, Message, TextPart, ToolCall, ToolOutput, User, plain_text
from walrusd.providers.openai_encode import message_encoder

Json = Mapping[str, Any]
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ID = re.compile(r"[a-zA-Z0-9_-]+")


def openai_violations(messages: Sequence[Json]) -> list[str]:
    """Returns the violations in the `messages` of an OpenAI chat-completions request."""
    chat = messages[1:] if messages and messages[0]["role"] == "system" else messages
    return [
        *_role_order_violations(chat, ends_with={"user", "tool"}),
        *_openai_pairing_violations(chat),
        *_openai_content_violations(chat),
    ]


def _role_order_violations(messages: Sequence[Json], ends_with: set[str]) -> Iterator[str]:
    if not messages or messages[0]["role"] != "user":
        yield "the first message is not from the user"
    elif messages[-1]["role"] not in ends_with:
        yield f"the last message is from {messages[-1]['role']}"
    for before, message in pairwise(messages):
        if before["role"] == message["role"] == "assistant":
            yield "two assistant messages in a row"


def _openai_pairing_violations(messages: Sequence[Json]) -> Iterator[str]:
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if not waiting or message["tool_call_id"] != waiting.pop(0):
                yield f"an answer without a call, or out of order: {message['tool_call_id']}"
            continue
        if waiting:
            yield f"calls without an answer: {waiting}"
        waiting = [call["id"] for call in message.get("tool_calls") or ()]
        if len(set(waiting)) < len(waiting):
            yield f"a call id is used twice: {waiting}"
    if waiting:
        yield f"calls without an answer: {waiting}"


def _openai_content_violations(messages: Sequence[Json]) -> Iterator[str]:
    for message in messages:
        match message:
            case {"role": "assistant", "tool_calls": [_, *_] as calls}:
                for call in calls:
                    yield from _openai_call_violations(call)
            case {"role": "user" | "assistant", "content": str(text)} if text.strip():
                pass
            case {"role": "user", "content": [_, *_]}:
                pass
            case {"role": "tool", "content": str(), "tool_call_id": str()}:
                pass
            case _:
                yield f"a message without content: {message}"


def _openai_call_violations(call: Json) -> Iterator[str]:
    match call:
        case {"id": str(id_), "type": "function", "function": {"name": str(name), "arguments": str(arguments)}} if (
            id_ and NAME.fullmatch(name)
        ):
            try:
                is_object = isinstance(json.loads(arguments), dict)
            except ValueError:
                is_object = False
            if not is_object:
                yield f"arguments that are not a JSON object: {arguments}"
        case _:
            yield f"not a valid call: {call}"


def anthropic_violations(messages: Sequence[Json]) -> list[str]:
    """Returns the violations in the `messages` of an Anthropic messages request."""
    return [
        *_role_order_violations(messages, ends_with={"user"}),
        *_anthropic_pairing_violations(messages),
        *_anthropic_content_violations(messages),
    ]


def _anthropic_pairing_violations(messages: Sequence[Json]) -> Iterator[str]:
    waiting: list[str] = []
    used_ids: set[str] = set()
    for message in messages:
        kinds = [block["type"] for block in message["content"]]
        answers = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        if sorted(answers) != sorted(waiting):
            yield f"calls {waiting} are answered by {answers}"
        if kinds[: len(answers)] != ["tool_result"] * len(answers):
            yield f"answers must come before other content: {kinds}"
        if message["role"] == "assistant" and answers:
            yield "an assistant message contains tool results"
        waiting = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        if waiting and message["role"] != "assistant":
            yield "a user message contains tool calls"
        if used_ids.intersection(waiting) or len(set(waiting)) < len(waiting):
            yield f"a call id is used twice: {waiting}"
        used_ids.update(waiting)
    if waiting:
        yield f"calls without an answer: {waiting}"


def _anthropic_content_violations(messages: Sequence[Json]) -> Iterator[str]:
    for before, message in pairwise(messages):
        if before["role"] == message["role"]:
            yield f"two {message['role']} messages in a row"
    for message in messages:
        if not message["content"]:
            yield f"a message without content: {message}"
        for block in message["content"]:
            match block:
                case {"type": "text", "text": str(text)} if text.strip():
                    pass
                case {"type": "tool_use", "id": str(id_), "name": str(name), "input": dict()} if ID.fullmatch(
                    id_
                ) and NAME.fullmatch(name):
                    pass
                case {"type": "tool_result", "tool_use_id": str(), "content": str()}:
                    pass
                case _:
                    yield f"not a valid block: {block}"


def as_anthropic(messages: Sequence[Message]) -> list[Json]:
    """Returns a history in Anthropic's format: tool answers are user content, roles alternate."""
    chat: list[dict[str, Any]] = []
    for message in messages:
        role, blocks = anthropic_blocks(message)
        if chat and chat[-1]["role"] == role:
            chat[-1]["content"] += blocks
        else:
            chat.append({"role": role, "content": blocks})
    return [*chat]


def anthropic_blocks(message: Message) -> tuple[str, list[Json]]:
    match message:
        case User(content=content):
            return "user", _texts(content)
        case Assistant(content=content, calls=calls):
            text = _texts(content) if plain_text(content).strip() else []
            return "assistant", [*text, *map(_tool_use, calls)]
        case ToolOutput(call_id=call, output=output):
            return "user", [{"type": "tool_result", "tool_use_id": call, "content": output}]


def _texts(content: Content) -> list[Json]:
    parts = (TextPart(content),) if isinstance(content, str) else content
    return [{"type": "text", "text": plain_text((part,))} for part in parts]


def _tool_use(call: ToolCall) -> Json:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}


def violations(messages: Sequence[Message]) -> list[str]:
    """Returns the violations in a history that is sent to a model, by the rules of all providers."""
    encode = message_encoder("any")
    openai = [json.loads(encode(message).blocks) for message in messages]
    return [*openai_violations(openai), *anthropic_violations(as_anthropic(messages))]
