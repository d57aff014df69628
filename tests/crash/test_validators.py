"""The judges of the crash tests: what they let pass, and that they find each fault."""

from typing import Any

import pytest

from tests.fakes.validators import anthropic_complaints, complaints, openai_complaints
from walrus_protocol.content import Assistant, Message, ToolCall, ToolOutput, User

Json = dict[str, Any]
USER: Json = {"role": "user", "content": "hi"}
SAID: Json = {"role": "assistant", "content": "yes"}
CALL: Json = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
CALLED: Json = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER: Json = {"role": "tool", "tool_call_id": "c1", "content": ""}
TEXT: Json = {"type": "text", "text": "hi"}
USE: Json = {"type": "tool_use", "id": "c1", "name": "read", "input": {}}
RESULT: Json = {"type": "tool_result", "tool_use_id": "c1", "content": ""}


def asks(*content: Json) -> Json:
    return {"role": "user", "content": [*content]}


def answers(*content: Json) -> Json:
    return {"role": "assistant", "content": [*content]}


def test_a_conversation_with_calls_and_answers_that_were_cut_off_is_taken() -> None:
    messages: list[Message] = [
        User("go"),
        Assistant(calls=(ToolCall("c1", "read", {}), ToolCall("c2", "read", {}))),
        ToolOutput(call_id="c1", name="read", output=""),
        ToolOutput(call_id="c2", name="read", output="seen"),
        Assistant(content="half"),
        User("again"),
        User("and more"),
    ]
    assert complaints(messages) == []


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "the first is not a user's"),
        ([SAID, USER], "the first is not a user's"),
        ([USER, SAID], "the last is assistant's"),
        ([USER, SAID, SAID, USER], "the assistant speaks twice"),
        ([USER, CALLED, USER], "calls without an answer: ['c1']"),
        ([USER, CALLED, ANSWER, ANSWER], "an answer to no call, or out of turn: c1"),
        ([USER, {**CALLED, "tool_calls": [CALL, CALL]}, ANSWER, ANSWER], "an id twice: ['c1', 'c1']"),
        ([{**USER, "content": " "}], "no content: {'role': 'user', 'content': ' '}"),
        ([USER, {**SAID, "content": ""}, USER], "no content: {'role': 'assistant', 'content': ''}"),
        (
            [USER, {**CALLED, "tool_calls": [{**CALL, "function": {"name": "read", "arguments": "[1"}}]}, ANSWER],
            "arguments that are no JSON object: [1",
        ),
    ],
)
def test_each_fault_of_an_openai_request_is_found(messages: list[Json], complaint: str) -> None:
    assert openai_complaints([{"role": "system", "content": ""}, *messages]) == [complaint]


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([asks(TEXT), asks(TEXT)], "two of the user's in a row"),
        ([asks(TEXT), answers(USE), asks(TEXT)], "calls ['c1'] are answered by []"),
        ([asks(TEXT), answers(USE), asks(TEXT, RESULT)], "answers come first: ['text', 'tool_result']"),
        ([asks(RESULT)], "calls [] are answered by ['c1']"),
        ([asks()], "no content: {'role': 'user', 'content': []}"),
        ([asks({**TEXT, "text": "\n"})], "no block: {'type': 'text', 'text': '\\n'}"),
        (
            [asks(TEXT), answers(USE), asks(RESULT), answers(USE), asks(RESULT)],
            "an id twice: ['c1']",
        ),
        (
            [asks(TEXT), answers({**USE, "input": "{}"}), asks(RESULT)],
            "no block: {'type': 'tool_use', 'id': 'c1', 'name': 'read', 'input': '{}'}",
        ),
    ],
)
def test_each_fault_of_an_anthropic_request_is_found(messages: list[Json], complaint: str) -> None:
    assert anthropic_complaints(messages) == [complaint]
