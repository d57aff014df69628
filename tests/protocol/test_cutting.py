"""The cutter against json itself: whatever the document and however its text comes, and what is none is named."""

import json
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus_protocol import cutting
from walrus_protocol.cutting import MOST, Cutter, Malformed

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8)
documents = st.dictionaries(texts, st.lists(values) | values)


def in_pieces(text: str, size: int) -> Callable[[], str]:
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    return lambda: next(pieces, "")


def taken_apart(read: Callable[[], str], lists: set[str]) -> dict[str, object]:
    """Its members; those that are lists are taken element by element."""
    cutter, found = Cutter(read), dict[str, object]()
    for name in cutter.members():
        if name in lists:
            found[name] = [json.loads(cutter.value()) for _ in cutter.elements()]
        else:
            found[name] = json.loads(cutter.value())
    cutter.end()
    return found


@given(documents, st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_any_document_in_any_pieces_is_what_json_says(
    document: dict[str, object], size: int, indent: int | None, plain: bool
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=plain)
    lists = {name for name, value in document.items() if isinstance(value, list)}
    assert taken_apart(in_pieces(f" {text}\r\n", size), lists) == document


@given(documents, st.data())
def test_what_is_cut_off_anywhere_is_malformed(document: dict[str, object], data: st.DataObject) -> None:
    text = json.dumps(document)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(Malformed):
        taken_apart(in_pieces(cut, 7), set())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cut off behind character 0"),
        ('{"b":"abc', "cut off behind character 9"),
        ('{"b":12', "cut off behind character 7"),
        ('{"a":[1,', "cut off behind character 8"),
        ("[]", "at character 1: an object is missing"),
        ("{a:1}", "at character 2: a name in quotes is missing"),
        ('{"a" 1}', "at character 6: a colon is missing"),
        ('{"b":1 "c":2}', "at character 8: a comma or } is missing"),
        ('{"a":[1 2]}', "at character 9: a comma or ] is missing"),
        ('{"a":[1,]}', "at character 9: expecting value"),
        ('{"a":{}}', "at character 6: an array is missing"),
        ('{"b":tru}', "at character 6: expecting value"),
        ('{"b":NaN}', "at character 6: NaN is no JSON"),
        ('{"b":"\n"}', "at character 7: invalid control character"),
        ('{"b":1}x', "at character 8: there is more behind its end"),
        ('{"b":1,"b":2}', "'b' comes twice"),
        ('{"b":' + "1" * 5000 + "}", "at character 6: Exceeds the limit"),
        ('{"b":' + "[" * 100_000, "at character 6: it is nested too deeply"),
        ('{"b":' + '{"c":' * 100_000, "at character 6: it is nested too deeply"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1_000_000])
def test_what_is_wrong_is_said_with_its_place(text: str, says: str, size: int) -> None:
    if size < 9 and len(text) > 9_000:
        size = 4_096
    with pytest.raises(Malformed, match=says.replace("[", r"\[")):
        taken_apart(in_pieces(text, size), {"a"})


def test_no_more_is_held_than_the_value_that_is_read() -> None:
    element, taken, most = json.dumps("x" * 1000), 0, 0

    def read() -> str:
        nonlocal taken
        taken += 1
        return '{"a":[' if taken == 1 else element + ("," if taken < 10_000 else "]}") if taken <= 10_000 else ""

    cutter = Cutter(read)
    for name in cutter.members():
        assert name == "a"
        for number in cutter.elements():
            assert cutter.value() == element
            most = max(most, taken - number)
    assert most < 10


def test_a_value_without_end_is_given_up() -> None:
    cutter = Cutter(lambda: "x" * cutting.MOST)
    with pytest.raises(Malformed, match="an object is missing"):
        next(cutter.members())
    pieces = iter(['{"a":"'])
    cutter = Cutter(lambda: next(pieces, "x" * (MOST // 4)))
    with pytest.raises(Malformed, match=f"a value takes over {MOST:,} characters"):
        [cutter.value() for _ in cutter.members()]


AWKWARD = ["\\", '"', '\\"', "]}", '{["', "é\u2028", "\\\\\\", "\n\t", "\x00", "🦭"]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("size", [997, 65_536, 10_000_000])
def test_a_long_value_is_cut_where_json_says_that_it_ends(size: int, plain: bool) -> None:
    document: dict[str, object] = {"a": [1], "z": "the last"}
    for number, awkward in enumerate(AWKWARD):
        long = awkward * (200_000 // len(awkward)) + AWKWARD[number - 1]
        document |= {f"text {number}": long, f"list {number}": [long, {long: [awkward, {}, []]}, 1.5], awkward: awkward}
    assert taken_apart(in_pieces(json.dumps(document, ensure_ascii=plain), size), {"a"}) == document


@pytest.mark.parametrize("size", [997, 65_536])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('"' + "x" * 100_000, "cut off behind character 100,006"),
        ('"' + "x" * 100_000 + "\\", "cut off behind character 100,007"),
        ('["' + "x" * 100_000 + '"', "cut off behind character 100,008"),
        ('["' + "x" * 100_000 + '",' + "[" * 5_000, "at character 6: it is nested too deeply"),
        ("tru" + "x" * 200_000, "at character 6: expecting value"),
        (
            "[" + "[]," * 200_000 + "0]",
            f"at character 6: a value holds over {cutting.MOST_SIGNS:,} commas, brackets and braces",
        ),
    ],
)
def test_what_is_wrong_with_a_long_value_is_said_with_its_place(value: str, says: str, size: int) -> None:
    with pytest.raises(Malformed, match=says):
        taken_apart(in_pieces(f'{{"b":{value}', size), set())


def test_what_is_not_written_by_anybody_is_given_up_before_it_takes_memory() -> None:
    taken = 0

    def read() -> str:
        nonlocal taken
        taken += 1
        return '{"a":[' if taken == 1 else "[]," * 20_000

    cutter = Cutter(read)
    tracemalloc.start()
    with pytest.raises(Malformed):
        [cutter.value() for _ in cutter.members()]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 12
    assert most < 10_000_000
