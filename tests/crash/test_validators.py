"""Tests the validators of the crash tests: they accept a valid conversation and find each violation."""

from typing import Any

import pytest

from tests.fakes.validators import anthropic_violations, openai_violations, violations
from walrus_protocol.content import Assistant, Message, ToolCall, ToolOutput, User

Json = dict[str, Any]
USER_MESSAGE: Json = {"role": "user", "content": "hi"}
ASSISTANT_MESSAGE: Json = {"role": "assistant", "content": "yes"}
CALL: Json = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
ASSISTANT_WITH_CALL: Json = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOOL_MESSAGE: Json = {"role": "tool", "tool_call_id": "c1", "content": ""}
TEXT: Json = {"type": "text", "text": "hi"}
TOOL_USE: Json = {"type": "tool_use", "id": "c1", "name": "read", "input": {}}
TOOL_RESULT: Json = {"type": "tool_result", "tool_use_id": "c1", "content": ""}


def user_message(*content: Json) -> Json:
    return {"role": "user", "content": [*content]}


def assistant_message(*content: Json) -> Json:
    return {"role": "assistant", "content": [*content]}


def test_a_conversation_with_calls_and_interrupted_answers_is_accepted() -> None:
    messages: list[Message] = [
        User("go"),
        Assistant(calls=(ToolCall("c1", "read", {}), ToolCall("c2", "read", {}))),
        ToolOutput(call_id="c1", name="read", output=""),
        ToolOutput(call_id="c2", name="read", output="text"),
        Assistant(content="half"),
        User("again"),
        User("and more"),
    ]
    assert violations(messages) == []


@pytest.mark.parametrize(
    ("messages", "violation"),
    [
        ([], "the first message is not from the user"),
        ([ASSISTANT_MESSAGE, USER_MESSAGE], "the first message is not from the user"),
        ([USER_MESSAGE, ASSISTANT_MESSAGE], "the last message is from assistant"),
        ([USER_MESSAGE, ASSISTANT_MESSAGE, ASSISTANT_MESSAGE, USER_MESSAGE], "two assistant messages in a row"),
        ([USER_MESSAGE, ASSISTANT_WITH_CALL, USER_MESSAGE], "calls without an answer: ['c1']"),
        (
            [USER_MESSAGE, ASSISTANT_WITH_CALL, TOOL_MESSAGE, TOOL_MESSAGE],
            "an answer without a call, or out of order: c1",
        ),
        (
            [USER_MESSAGE, {**ASSISTANT_WITH_CALL, "tool_calls": [CALL, CALL]}, TOOL_MESSAGE, TOOL_MESSAGE],
            "a call id is used twice: ['c1', 'c1']",
        ),
        ([{**USER_MESSAGE, "content": " "}], "a message without content: {'role': 'user', 'content': ' '}"),
        (
            [USER_MESSAGE, {**ASSISTANT_MESSAGE, "content": ""}, USER_MESSAGE],
            "a message without content: {'role': 'assistant', 'content': ''}",
        ),
        (
            [
                USER_MESSAGE,
                {**ASSISTANT_WITH_CALL, "tool_calls": [{**CALL, "function": {"name": "read", "arguments": "[1"}}]},
                TOOL_MESSAGE,
            ],
            "arguments that are not a JSON object: [1",
        ),
    ],
)
def test_each_violation_in_an_openai_request_is_found(messages: list[Json], violation: str) -> None:
    assert openai_violations([{"role": "system", "content": ""}, *messages]) == [violation]


@pytest.mark.parametrize(
    ("messages", "violation"),
    [
        ([user_message(TEXT), user_message(TEXT)], "two user messages in a row"),
        ([user_message(TEXT), assistant_message(TOOL_USE), user_message(TEXT)], "calls ['c1'] are answered by []"),
        (
            [user_message(TEXT), assistant_message(TOOL_USE), user_message(TEXT, TOOL_RESULT)],
            "answers must come before other content: ['text', 'tool_result']",
        ),
        ([user_message(TOOL_RESULT)], "calls [] are answered by ['c1']"),
        ([user_message()], "a message without content: {'role': 'user', 'content': []}"),
        ([user_message({**TEXT, "text": "\n"})], "not a valid block: {'type': 'text', 'text': '\\n'}"),
        (
            [
                user_message(TEXT),
                assistant_message(TOOL_USE),
                user_message(TOOL_RESULT),
                assistant_message(TOOL_USE),
                user_message(TOOL_RESULT),
            ],
            "a call id is used twice: ['c1']",
        ),
        (
            [user_message(TEXT), assistant_message({**TOOL_USE, "input": "{}"}), user_message(TOOL_RESULT)],
            "not a valid block: {'type': 'tool_use', 'id': 'c1', 'name': 'read', 'input': '{}'}",
        ),
    ],
)
def test_each_violation_in_an_anthropic_request_is_found(messages: list[Json], violation: str) -> None:
    assert anthropic_violations(messages) == [violation]
