"""The judges of the crash tests: what they let pass, and that they find each fault."""

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
        ToolOutput(call_id="c2", name="read", output="seen"),
        Assistant(content="half"),
        User("again"),
        User("and more"),
    ]
    assert violations(messages) == []


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "the first is not a user's"),
        ([ASSISTANT_MESSAGE, USER_MESSAGE], "the first is not a user's"),
        ([USER_MESSAGE, ASSISTANT_MESSAGE], "the last is assistant's"),
        ([USER_MESSAGE, ASSISTANT_MESSAGE, ASSISTANT_MESSAGE, USER_MESSAGE], "the assistant speaks twice"),
        ([USER_MESSAGE, ASSISTANT_WITH_CALL, USER_MESSAGE], "calls without an answer: ['c1']"),
        ([USER_MESSAGE, ASSISTANT_WITH_CALL, TOOL_MESSAGE, TOOL_MESSAGE], "an answer to no call, or out of turn: c1"),
        (
            [USER_MESSAGE, {**ASSISTANT_WITH_CALL, "tool_calls": [CALL, CALL]}, TOOL_MESSAGE, TOOL_MESSAGE],
            "an id twice: ['c1', 'c1']",
        ),
        ([{**USER_MESSAGE, "content": " "}], "no content: {'role': 'user', 'content': ' '}"),
        (
            [USER_MESSAGE, {**ASSISTANT_MESSAGE, "content": ""}, USER_MESSAGE],
            "no content: {'role': 'assistant', 'content': ''}",
        ),
        (
            [
                USER_MESSAGE,
                {**ASSISTANT_WITH_CALL, "tool_calls": [{**CALL, "function": {"name": "read", "arguments": "[1"}}]},
                TOOL_MESSAGE,
            ],
            "arguments that are no JSON object: [1",
        ),
    ],
)
def test_each_violation_in_an_openai_request_is_found(messages: list[Json], complaint: str) -> None:
    assert openai_violations([{"role": "system", "content": ""}, *messages]) == [complaint]


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([user_message(TEXT), user_message(TEXT)], "two of the user's in a row"),
        ([user_message(TEXT), assistant_message(TOOL_USE), user_message(TEXT)], "calls ['c1'] are answered by []"),
        (
            [user_message(TEXT), assistant_message(TOOL_USE), user_message(TEXT, TOOL_RESULT)],
            "answers come first: ['text', 'tool_result']",
        ),
        ([user_message(TOOL_RESULT)], "calls [] are answered by ['c1']"),
        ([user_message()], "no content: {'role': 'user', 'content': []}"),
        ([user_message({**TEXT, "text": "\n"})], "no block: {'type': 'text', 'text': '\\n'}"),
        (
            [
                user_message(TEXT),
                assistant_message(TOOL_USE),
                user_message(TOOL_RESULT),
                assistant_message(TOOL_USE),
                user_message(TOOL_RESULT),
            ],
            "an id twice: ['c1']",
        ),
        (
            [user_message(TEXT), assistant_message({**TOOL_USE, "input": "{}"}), user_message(TOOL_RESULT)],
            "no block: {'type': 'tool_use', 'id': 'c1', 'name': 'read', 'input': '{}'}",
        ),
    ],
)
def test_each_violation_in_an_anthropic_request_is_found(messages: list[Json], complaint: str) -> None:
    assert anthropic_violations(messages) == [complaint]
