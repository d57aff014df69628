"""Tests of encoding messages and settings as the bytes of a request."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from walrus_protocol.content import (
    Assistant,
    FilePart,
    ImagePart,
    Message,
    TextPart,
    ToolCall,
    ToolOutput,
    ToolSchema,
    User,
)
from walrusd.ports import EncodedMessage, ModelRequest
from walrusd.providers.openai_encode import message_encoder, request_body
from walrusd.session.conversation import ConversationView

READ_SCHEMA = ToolSchema(
    name="read",
    description="Reads a file.",
    parameters={"type": "object", "properties": {"path": {"type": "string"}}},
    read_only=True,
)


def encode_message(message: Message) -> Any:
    return json.loads(message_encoder("here")(message).blocks)


def encode_request(request: ModelRequest, *, completion_tokens: bool = False) -> Any:
    messages = request.history.render("openai:here", message_encoder("here"))
    return json.loads(request_body(request, messages, use_max_completion_tokens=completion_tokens))


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (User("hi"), {"role": "user", "content": "hi"}),
        (
            User((TextPart("see"), ImagePart(media_type="image/gif", data="R0k="), ImagePart(url="https://x.test/a"))),
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0k="}},
                    {"type": "image_url", "image_url": {"url": "https://x.test/a"}},
                ],
            },
        ),
        (
            User((FilePart(name="a.pdf", media_type="application/pdf", data="JVA="),)),
            {
                "role": "user",
                "content": [
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVA="},
                    }
                ],
            },
        ),
        (Assistant(content="yes", thinking="hm"), {"role": "assistant", "content": "yes"}),
        (Assistant(content=""), {"role": "assistant", "content": ""}),
        (
            Assistant(calls=(ToolCall("1", "read", {"path": "ä"}), ToolCall("2", "read", '{"path": '))),
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "read", "arguments": '{"path":"ä"}'}},
                    {"id": "2", "type": "function", "function": {"name": "read", "arguments": '{"path": '}},
                ],
            },
        ),
        (
            ToolOutput(call_id="1", name="read", output="text", is_error=True),
            {"role": "tool", "tool_call_id": "1", "content": "text"},
        ),
    ],
)
def test_a_message_is_encoded_in_the_format_of_the_wire(message: Message, wire: dict[str, Any]) -> None:
    assert encode_message(message) == wire


def test_thinking_goes_back_only_to_the_provider_it_came_from() -> None:
    opaque: dict[str, object] = {"provider": "here", "thinking_as": "reasoning_content"}
    message = Assistant(content="yes", thinking="hm", opaque=opaque)
    assert encode_message(message) == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    assert json.loads(message_encoder("elsewhere")(message).blocks) == {"role": "assistant", "content": "yes"}


def test_a_request_has_the_system_text_first_and_the_tools_as_functions() -> None:
    request = ModelRequest(
        purpose="turn", model="m", system="Be kind.", history=ConversationView([User("hi")]), tools=(READ_SCHEMA,)
    )
    assert encode_request(request) == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        "tools": [
            {
                "type": "function",
                "function": {"name": "read", "description": "Reads a file.", "parameters": READ_SCHEMA.parameters},
            }
        ],
    }


def test_the_bytes_of_a_request_are_the_same_each_time_so_that_the_provider_can_cache_them() -> None:
    call = ToolCall("1", "read", {"path": "a"})
    history = ConversationView(
        [User("hi"), Assistant(calls=(call,)), ToolOutput(call_id="1", name="read", output="text")]
    )
    request = ModelRequest(
        purpose="turn", model="m", system="Be kind.", history=history, tools=(READ_SCHEMA,), max_output_tokens=9
    )
    assert request_body(
        request, history.render("openai:here", message_encoder("here")), use_max_completion_tokens=False
    ) == (
        b'{"model":"m","max_tokens":9,"stream":true,"stream_options":{"include_usage":true},"messages":['
        b'{"role":"system","content":"Be kind."},{"role":"user","content":"hi"},'
        b'{"role":"assistant","content":null,"tool_calls":[{"id":"1","function":{"name":"read",'
        b'"arguments":"{\\"path\\":\\"a\\"}"},"type":"function"}]},'
        b'{"role":"tool","tool_call_id":"1","content":"text"}],"tools":[{"function":{"name":"read",'
        b'"description":"Reads a file.","parameters":{"type":"object","properties":{"path":{"type":"string"}}}},'
        b'"type":"function"}]}'
    )


def test_a_setting_that_is_not_set_is_not_sent() -> None:
    request = ModelRequest(purpose="turn", model="m", system="", history=ConversationView([User("hi")]))
    assert set(encode_request(request)) == {"model", "stream", "stream_options", "messages"}
    assert encode_request(request)["messages"] == [{"role": "user", "content": "hi"}]


def test_caps_and_thinking_are_sent_under_the_name_that_the_server_knows() -> None:
    request = ModelRequest(purpose="turn", model="m", system="", history=ConversationView([User("hi")]), thinking=True)
    request = replace(request, max_output_tokens=99)
    older, newer = encode_request(request), encode_request(request, completion_tokens=True)
    assert (older["max_tokens"], older["reasoning_effort"], "max_completion_tokens" in older) == (99, "medium", False)
    assert (newer["max_completion_tokens"], "max_tokens" in newer) == (99, False)


def test_a_schema_of_the_answer_is_sent_as_the_response_format() -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}}
    request = ModelRequest(purpose="infer", model="m", system="", history=ConversationView(), response_schema=schema)
    assert encode_request(request)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": schema},
    }


def test_a_message_is_encoded_once_however_many_rounds_send_it() -> None:
    history, encoded = ConversationView([User("one")]), []
    encode = message_encoder("here")

    def recording_encode(message: Message) -> EncodedMessage:
        encoded.append(message)
        return encode(message)

    for message in (User("two"), User("three")):
        history.render("openai:here", recording_encode)
        history.append(message)
    history.render("openai:here", recording_encode)
    assert encoded == [User("one"), User("two"), User("three")]


@given(st.lists(st.text()), st.text())
def test_a_request_is_json_whatever_its_texts_contain(texts: list[str], system: str) -> None:
    request = ModelRequest(
        purpose="turn", model="m", system=system, history=ConversationView([User(text) for text in texts])
    )
    contents = [message["content"] for message in encode_request(request)["messages"]]
    assert contents == ([system] if system else []) + texts
