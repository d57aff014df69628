"""Tests of decoding answers: the formats of different servers, split anywhere."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus_protocol.content import ToolCall, Usage
from walrusd.ports import Reply, ReplyChunk, TextChunk, ThinkingChunk
from walrusd.providers.openai_decode import MAX_TEXT, ErrorInStream, MalformedReply, ReplyDecoder
from walrusd.providers.sse import EventStream


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}).encode()


def call_delta(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"function": {"name": name, "arguments": arguments}, **more}]}


def decode_reply(*events: bytes) -> Reply:
    decoder = ReplyDecoder("here", "call_3")
    for event in events:
        decoder.add(event, [])
    return decoder.build_reply()


def test_text_and_thinking_are_streamed_and_returned_whole() -> None:
    decoder, chunks = ReplyDecoder("here", "c"), list[ReplyChunk]()
    for delta in ({"role": "assistant", "content": ""}, {"reasoning": "hm"}, {"content": "Hel"}, {"content": "lo"}):
        decoder.add(chunk(delta), chunks)
    assert not decoder.is_complete
    decoder.add(chunk(finish="stop"), [])
    assert decoder.is_complete
    assert not decoder.done_received
    decoder.add(b"[DONE]", [])
    assert decoder.done_received
    assert chunks == [ThinkingChunk("hm"), TextChunk("Hel"), TextChunk("lo")]
    assert decoder.build_reply() == Reply(content="Hello", thinking="hm")


def test_thinking_that_a_server_wants_back_is_marked_with_its_provider() -> None:
    reply = decode_reply(chunk({"content": None, "reasoning_content": "hm"}), chunk({"content": "yes"}, "stop"))
    assert reply == Reply(content="yes", thinking="hm", opaque={"provider": "here", "thinking_as": "reasoning_content"})


def test_usage_separates_cached_from_new_input_and_counts_reasoning() -> None:
    reply = decode_reply(
        chunk({"content": "a"}, "stop"),
        json.dumps(
            {
                "choices": [],
                "usage": {
                    "prompt_tokens": 100,
                    "completion_tokens": 20,
                    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
                    "completion_tokens_details": {"reasoning_tokens": 12},
                },
            }
        ).encode(),
    )
    assert reply.usage == Usage(input=36, output=20, cache_read=64, reasoning=12)


@pytest.mark.parametrize(
    ("finish", "has_calls", "expected"),
    [
        ("stop", False, "stop"),
        ("length", False, "length"),
        ("content_filter", False, "refused"),
        ("eos", False, "stop"),
        ("tool_calls", True, "tool_calls"),
        ("stop", True, "tool_calls"),
        ("function_call", True, "tool_calls"),
        ("length", True, "length"),
        ("content_filter", True, "refused"),
    ],
)
def test_a_finish_reason_is_translated(finish: str, has_calls: bool, expected: str) -> None:
    delta = call_delta("read", "{}", index=0, id="1") if has_calls else {"content": "a"}
    reply = decode_reply(chunk(delta), chunk(finish=finish))
    assert reply.finish == expected
    assert bool(reply.calls) == (has_calls and expected != "refused")


def test_a_refusal_of_the_model_is_streamed_and_finishes_as_refused() -> None:
    assert decode_reply(chunk({"refusal": "I will not."}), chunk(finish="stop")) == Reply(
        content="I will not.", finish="refused"
    )


def test_interleaved_pieces_of_several_calls_are_assembled() -> None:
    reply = decode_reply(
        chunk(call_delta("re", "", index=0, id="a")),
        chunk(call_delta("list", "", index=1, id="b")),
        chunk(call_delta("ad", '{"path"', index=0)),
        chunk(call_delta(None, '{"n": 1}', index=1)),
        chunk(call_delta(None, ': "x"}', index=0)),
        chunk(finish="tool_calls"),
    )
    assert reply == Reply(
        calls=(ToolCall("a", "read", {"path": "x"}), ToolCall("b", "list", {"n": 1})), finish="tool_calls"
    )


def merged_calls(first: dict[str, Any], second: dict[str, Any]) -> bytes:
    return chunk({"tool_calls": [*first["tool_calls"], *second["tool_calls"]]}, "tool_calls")


@pytest.mark.parametrize(
    ("deltas", "ids"),
    [
        ((call_delta("r", "{}", index=0), call_delta("r", "{}", index=1)), ("call_3_0", "call_3_1")),
        ((call_delta("r", "{}", index=0, id=""), call_delta("r", "{}", index=1, id="")), ("call_3_0", "call_3_1")),
        ((call_delta("r", "{}", index=0, id="x"), call_delta("r", "{}", index=1, id="x")), ("x", "x_1")),
        ((call_delta("r", "{}", index=0, id="x"), call_delta("r", "{}", index=0, id="y")), ("x", "y")),
        ((call_delta("r", "{}", id="x"), call_delta("r", "{}", id="x")), ("x", "x_1")),
        ((call_delta("r", "{}"), call_delta("r", "{}")), ("call_3_0", "call_3_1")),
        ((call_delta("r", "{}", index=0, id="call_3_1"), call_delta("r", "{}", index=1)), ("call_3_1", "call_3_1_1")),
    ],
)
def test_every_call_has_a_unique_id(deltas: tuple[dict[str, Any], dict[str, Any]], ids: tuple[str, str]) -> None:
    assert decode_reply(merged_calls(*deltas)).calls == (ToolCall(ids[0], "r", {}), ToolCall(ids[1], "r", {}))


@pytest.mark.parametrize("repeat", [{"id": "x"}, {}])
def test_a_server_that_repeats_id_and_name_makes_one_call(repeat: dict[str, str]) -> None:
    pieces = [
        call_delta("read", text, index=0, **({"id": "x"} if n == 0 else repeat)) for n, text in enumerate('{"a":1}')
    ]
    assert decode_reply(*map(chunk, pieces), chunk(finish="tool_calls")).calls == (ToolCall("x", "read", {"a": 1}),)


@pytest.mark.parametrize(
    ("arguments", "decoded"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (" ", {}),
        (None, {}),
        ('{"a": ', '{"a": '),
        ("[1]", "[1]"),
        ("null", "null"),
        ("read it", "read it"),
    ],
)
def test_arguments_that_are_not_an_object_stay_text(arguments: Any, decoded: Any) -> None:
    assert decode_reply(chunk(call_delta("read", arguments, index=0, id="1"), "tool_calls")).calls == (
        ToolCall("1", "read", decoded),
    )


def test_a_whole_message_is_accepted_like_chunks() -> None:
    message = {
        "role": "assistant",
        "content": "Look:",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "read", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "list", "arguments": "{}"}},
        ],
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": usage}
    assert decode_reply(json.dumps(whole).encode()) == Reply(
        content="Look:",
        calls=(ToolCall("a", "read", {}), ToolCall("b", "list", {})),
        finish="tool_calls",
        usage=Usage(input=3, output=2),
    )


def test_other_choices_are_ignored() -> None:
    second = json.dumps({"choices": [{"index": 1, "delta": {"content": "no"}}]}).encode()
    assert decode_reply(chunk({"content": "yes"}), second, chunk(finish="stop")) == Reply(content="yes")


@pytest.mark.parametrize("error", [{"message": "no"}, "no", {}])
def test_an_error_in_the_stream_is_recognised(error: Any) -> None:
    with pytest.raises(ErrorInStream):
        ReplyDecoder("here", "c").add(json.dumps({"error": error}).encode(), [])


def test_a_null_error_is_not_an_error() -> None:
    assert decode_reply(chunk({"content": "a"}, "stop", error=None)) == Reply(content="a")


@pytest.mark.parametrize("data", [b"hello", b"[1]", b'{"choices": 1}', b'{"choices": [', b"\xff\xfe"])
def test_data_that_is_not_a_chunk_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedReply):
        ReplyDecoder("here", "c").add(data, [])


def test_an_endless_answer_is_malformed() -> None:
    decoder, half = ReplyDecoder("here", "c"), chunk({"content": "x" * (MAX_TEXT // 2)})
    decoder.add(half, [])
    decoder.add(half, [])
    with pytest.raises(MalformedReply):
        decoder.add(chunk({"reasoning": "x"}), [])


DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, st.text()),
    st.builds(lambda text: {"reasoning": text}, st.text()),
    st.builds(lambda n, text: call_delta(None, text, index=n), st.integers(0, 2), st.text()),
)


@given(st.lists(DELTAS), st.data())
def test_any_chunking_of_the_bytes_gives_the_same_reply(deltas: list[dict[str, Any]], data: st.DataObject) -> None:
    wire = b"".join(b"data: %s\n\n" % event for event in (*map(chunk, deltas), chunk(finish="stop"), b"[DONE]"))
    expected = decode_reply(*map(chunk, deltas), chunk(finish="stop"))
    events, decoder, chunks = EventStream(), ReplyDecoder("here", "call_3"), list[ReplyChunk]()
    while wire:
        size = data.draw(st.integers(1, min(len(wire), 40)))
        for event in events.feed(wire[:size]):
            decoder.add(event.data, chunks)
        wire = wire[size:]
    assert decoder.done_received
    assert decoder.build_reply() == expected
    assert "".join(piece.text for piece in chunks if isinstance(piece, TextChunk)) == expected.content
    assert "".join(piece.text for piece in chunks if isinstance(piece, ThinkingChunk)) == expected.thinking
