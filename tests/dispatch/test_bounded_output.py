"""Tests of an output that is too long to show, or too long to store."""

from hypothesis import given
from hypothesis import strategies as st

from walrusd.dispatch.bounded_output import MAX_STORED_BYTES, BoundedOutput


def bounded_output(*pieces: str, cap: int) -> BoundedOutput:
    output = BoundedOutput(cap)
    for piece in pieces:
        output.add(piece)
    return output


@given(st.lists(st.text(st.characters(codec=None), max_size=100)), st.integers(0, 300), st.sampled_from(["", "[end]"]))
def test_the_shown_text_fits_and_can_be_encoded(pieces: list[str], cap: int, note: str) -> None:
    output = bounded_output(*pieces, cap=cap)
    whole = b"".join(piece.encode("utf-8", "replace") for piece in pieces)
    assert (output.size, output.stored) == (len(whole), whole)
    shown = output.format_for_model(note, "0a1b")
    assert shown.endswith(note)
    if output.fits(note):
        assert shown.removesuffix(note).removesuffix("\n") == whole.decode().removesuffix("\n")
    else:
        head, gap, tail = shown.removesuffix(note).rpartition(
            " bytes are omitted here; the user can read the whole output as output 0a1b]\n"
        )
        head, _, _ = head.rpartition("\n[")
        assert gap
        assert whole.startswith(head.encode())
        before_note = tail.removesuffix("\n")  # the line end may be the output's own, or added before the note
        assert whole.endswith((tail.encode(), before_note.encode()))
        assert len(shown.encode()) <= max(cap, len(shown) - len(head) - len(tail) + 1)


def test_the_first_part_of_a_flood_is_stored_and_its_end_is_shown() -> None:
    output = bounded_output("ab", *["ä" * 50_000] * 100, "the end", cap=1_000)
    assert output.size == 10_000_009
    assert output.stored == b"ab" + "ä".encode() * ((MAX_STORED_BYTES - 2) // 2)
    shown = output.format_for_model("[exit status 1]", "0a1b")
    head, gap, tail, note = shown.split("\n")
    assert gap == (
        f"[{output.size - len((head + tail).encode()):,} of 10,000,009 bytes are omitted here; "
        "the user can read its first 4,194,304 bytes as output 0a1b]"
    )
    assert head.strip("ä") == "ab"
    assert tail.strip("ä") == "the end"
    assert note == "[exit status 1]"
    assert 990 <= len(shown.encode()) <= 1_000


def test_a_character_that_does_not_fit_whole_is_not_stored_in_part() -> None:
    output = bounded_output("x" * (MAX_STORED_BYTES - 1), "äää", cap=300)
    assert output.stored == b"x" * (MAX_STORED_BYTES - 1)
    assert output.format_for_model().endswith("äää")


def test_a_note_has_a_line_of_its_own() -> None:
    assert bounded_output("a\n", cap=99).format_for_model("[exit status 1]") == "a\n[exit status 1]"
    assert bounded_output("a", cap=99).format_for_model("[exit status 1]") == "a\n[exit status 1]"
    assert bounded_output(cap=99).format_for_model("[no output]") == "[no output]"
