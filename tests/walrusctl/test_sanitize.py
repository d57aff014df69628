"""Tests of sanitize: escape sequences and control characters are removed, wherever the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrusctl.sanitize import StreamSanitizer, sanitize

SEQUENCES = [
    "\x1b[31m",
    "\x1b[2J",
    "\x1b[?1049h",
    "\x1b[38;2;1;2;3m",
    "\x9b31m",
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJm\x1b\\",
    "\x1b]8;;http://x\x1b\\",
    "\x9d0;title\x9c",
    "\x1bP1$q\x1b\\",
    "\x1b_x\x1b\\",
    "\x1b(0",
    "\x1bc",
    "\x1b7",
    "\r",
    "\b",
    "\x00",
    "\x7f",
    "\x85",
]
plain = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t"))


@given(st.lists(st.tuples(plain, st.sampled_from(SEQUENCES))), st.data())
def test_only_sequences_and_control_characters_are_removed_wherever_the_text_is_cut(
    parts: list[tuple[str, str]], data: st.DataObject
) -> None:
    text = "".join(plain_text + sequence for plain_text, sequence in parts)
    sanitizer, shown = StreamSanitizer(), ""
    left = text
    while left:
        size = data.draw(st.integers(1, len(left)))
        shown += sanitizer.feed(left[:size])
        left = left[size:]
    assert shown + sanitizer.flush() == sanitize(text) == "".join(plain_text for plain_text, _ in parts)


@given(st.text(), st.data())
def test_no_control_character_is_left_in_any_text(text: str, data: st.DataObject) -> None:
    sanitizer, shown = StreamSanitizer(), ""
    while text:
        size = data.draw(st.integers(1, len(text)))
        shown += sanitizer.feed(text[:size])
        text = text[size:]
    for letter in shown + sanitizer.flush():
        assert letter in "\n\t" or (ord(letter) >= 0x20 and not 0x7F <= ord(letter) < 0xA0)


@pytest.mark.parametrize("text", ["\x1b]0;an answer that goes on", "\x1b[31", "\x1bP an answer"])
def test_a_sequence_that_never_ends_hides_no_text(text: str) -> None:
    sanitizer = StreamSanitizer()
    assert sanitizer.feed(text) + sanitizer.flush() == sanitize(text) == text[1:]
    assert StreamSanitizer().feed(text + "x" * 5000).endswith("x")
