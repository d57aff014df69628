"""Tests of the event-stream grammar, with bytes split anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrusd.providers.sse import EventStream, EventTooLarge, ServerSentEvent


def parse(data: bytes) -> list[ServerSentEvent]:
    return EventStream().feed(data)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_line_ends_at_cr_lf_or_both(end: bytes) -> None:
    assert parse(end.join([b"event: add", b"data: one", b"data:two", b"", b"data", b"", b""])) == [
        ServerSentEvent(b"one\ntwo", b"add"),
        ServerSentEvent(b""),
    ]


def test_a_byte_order_mark_is_skipped_once() -> None:
    assert parse(b"\xef\xbb\xbfdata: one\n\n\xef\xbb\xbfdata: two\n\n") == [ServerSentEvent(b"one")]


def test_comments_ids_retries_and_unknown_fields_are_skipped() -> None:
    assert parse(b": ping\nid: 7\nretry: 10\nfoo: bar\nfoo\ndata: one\n\n") == [ServerSentEvent(b"one")]


def test_one_space_after_the_colon_is_not_part_of_the_value() -> None:
    assert parse(b"data:  one\n\ndata:two \n\n") == [ServerSentEvent(b" one"), ServerSentEvent(b"two ")]


def test_an_event_without_data_is_dropped() -> None:
    assert parse(b"event: add\n\ndata: one\n\n") == [ServerSentEvent(b"one")]


def test_an_unfinished_event_is_dropped() -> None:
    assert parse(b"data: one\n\ndata: two\n") == [ServerSentEvent(b"one")]


def test_other_unicode_separators_do_not_end_a_line() -> None:
    value = "a\u2028b\u0085c\x0bd\x0ce".encode()
    assert parse(b"data: " + value + b"\n\n") == [ServerSentEvent(value)]


@pytest.mark.parametrize("data", [b"data: " + b"x" * 200, b"data: 1234567890\n" * 12, b"event: " + b"x" * 200])
def test_a_line_or_an_event_beyond_the_cap_is_refused(data: bytes) -> None:
    with pytest.raises(EventTooLarge):
        EventStream(cap=100).feed(data)


@given(st.lists(st.text(max_size=8)), st.sampled_from(["\n", "\r", "\r\n"]), st.data())
def test_any_chunking_of_the_bytes_gives_the_same_events(texts: list[str], end: str, data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.sampled_from(["", "", "data", "data:", "event: x", ": c", *texts]), max_size=30))
    wire = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + end.join(lines).encode()
    wire += data.draw(st.binary(max_size=8))
    expected = parse(wire)
    stream, events = EventStream(), []
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        events += stream.feed(wire[:size])
        wire = wire[size:]
    assert events == expected
