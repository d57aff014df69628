"""Tests of the hash chain: the computation of its links, and the printed form of its head."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus_protocol.database.hash_chain import INITIAL_LINK, ChainHead, compute_link, hash_body, parse_head

NUMBERS = st.integers(0, 2**53 - 1)
HASHES = st.binary(min_size=32, max_size=32)
EVENTS = st.tuples(NUMBERS, NUMBERS, NUMBERS, st.binary(max_size=40))


def test_a_link_is_the_hash_of_the_previous_link_the_position_and_the_digest() -> None:
    position = b"".join(number.to_bytes(8, "big") for number in (7, 2, 5))
    assert (
        compute_link(INITIAL_LINK, 7, 2, 5, hash_body(b"{}"))
        == sha256(bytes(32) + position + sha256(b"{}").digest()).digest()
    )


@given(st.lists(EVENTS, min_size=1, max_size=6), st.lists(EVENTS, min_size=1, max_size=6))
def test_two_logs_have_the_same_head_only_if_they_are_equal(
    one: list[tuple[int, int, int, bytes]], other: list[tuple[int, int, int, bytes]]
) -> None:
    assert (chain_hash(one) == chain_hash(other)) == (one == other)


def chain_hash(events: list[tuple[int, int, int, bytes]]) -> bytes:
    link = INITIAL_LINK
    for offset, session, seq, body in events:
        link = compute_link(link, offset, session, seq, hash_body(body))
    return link


@given(NUMBERS, HASHES)
def test_a_printed_head_is_parsed_back_to_the_same_head(offset: int, link: bytes) -> None:
    assert parse_head(str(ChainHead(offset, link))) == ChainHead(offset, link)


@pytest.mark.parametrize(
    "text",
    ["", "7", "7:", "7:abcd", f"x:{'0' * 64}", f"-7:{'0' * 64}", f"7:{'g' * 64}", f"7:{'0' * 63}", f"²:{'0' * 64}"],
)
def test_an_invalid_head_is_refused_and_the_message_names_the_format(text: str) -> None:
    with pytest.raises(ValueError, match="OFFSET:HEX"):
        parse_head(text)
