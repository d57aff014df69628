"""What a terminal would obey is taken out of a text, however the text is cut; the rest stays, letter by letter."""

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
def test_only_sequences_and_control_characters_go_wherever_the_text_is_cut(
    parts: list[tuple[str, str]], data: st.DataObject
) -> None:
    text = "".join(said + sequence for said, sequence in parts)
    cleaner, shown = StreamSanitizer(), ""
    left = text
    while left:
        size = data.draw(st.integers(1, len(left)))
        shown += cleaner.feed(left[:size])
        left = left[size:]
    assert shown + cleaner.flush() == sanitize(text) == "".join(said for said, _ in parts)


@given(st.text(), st.data())
def test_nothing_that_a_terminal_obeys_is_ever_left(text: str, data: st.DataObject) -> None:
    cleaner, shown = StreamSanitizer(), ""
    while text:
        size = data.draw(st.integers(1, len(text)))
        shown += cleaner.feed(text[:size])
        text = text[size:]
    for letter in shown + cleaner.flush():
        assert letter in "\n\t" or (ord(letter) >= 0x20 and not 0x7F <= ord(letter) < 0xA0)


@pytest.mark.parametrize("text", ["\x1b]0;an answer that goes on", "\x1b[31", "\x1bP an answer"])
def test_a_sequence_that_never_ends_hides_nothing(text: str) -> None:
    cleaner = StreamSanitizer()
    assert cleaner.feed(text) + cleaner.flush() == sanitize(text) == text[1:]
    assert StreamSanitizer().feed(text + "x" * 5000).endswith("x")
