"""The cutter against json itself: whatever the document and however its text comes, and what is none is named."""

import json
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus_protocol import json_reader
from walrus_protocol.json_reader import MAX_VALUE_CHARS, JsonReader, MalformedJson

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8)
documents = st.dictionaries(texts, st.lists(values) | values)


def chunked_reader(text: str, size: int) -> Callable[[], str]:
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    return lambda: next(pieces, "")


def read_document(read: Callable[[], str], lists: set[str]) -> dict[str, object]:
    """Its members; those that are lists are taken element by element."""
    cutter, found = JsonReader(read), dict[str, object]()
    for name in cutter.members():
        if name in lists:
            found[name] = [json.loads(cutter.read_value()) for _ in cutter.elements()]
        else:
            found[name] = json.loads(cutter.read_value())
    cutter.expect_end()
    return found


@given(documents, st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_any_document_in_any_pieces_is_what_json_says(
    document: dict[str, object], size: int, indent: int | None, plain: bool
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=plain)
    lists = {name for name, value in document.items() if isinstance(value, list)}
    assert read_document(chunked_reader(f" {text}\r\n", size), lists) == document


@given(documents, st.data())
def test_a_document_cut_off_anywhere_is_malformed(document: dict[str, object], data: st.DataObject) -> None:
    text = json.dumps(document)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(MalformedJson):
        read_document(chunked_reader(cut, 7), set())


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
def test_a_syntax_error_is_reported_with_its_position(text: str, says: str, size: int) -> None:
    if size < 9 and len(text) > 9_000:
        size = 4_096
    with pytest.raises(MalformedJson, match=says.replace("[", r"\[")):
        read_document(chunked_reader(text, size), {"a"})


def test_no_more_than_the_current_value_is_buffered() -> None:
    element, taken, most = json.dumps("x" * 1000), 0, 0

    def read() -> str:
        nonlocal taken
        taken += 1
        return '{"a":[' if taken == 1 else element + ("," if taken < 10_000 else "]}") if taken <= 10_000 else ""

    cutter = JsonReader(read)
    for name in cutter.members():
        assert name == "a"
        for number in cutter.elements():
            assert cutter.read_value() == element
            most = max(most, taken - number)
    assert most < 10


def test_an_endless_value_is_refused() -> None:
    cutter = JsonReader(lambda: "x" * json_reader.MAX_VALUE_CHARS)
    with pytest.raises(MalformedJson, match="an object is missing"):
        next(cutter.members())
    pieces = iter(['{"a":"'])
    cutter = JsonReader(lambda: next(pieces, "x" * (MAX_VALUE_CHARS // 4)))
    with pytest.raises(MalformedJson, match=f"a value takes over {MAX_VALUE_CHARS:,} characters"):
        [cutter.read_value() for _ in cutter.members()]


AWKWARD_TEXTS = ["\\", '"', '\\"', "]}", '{["', "é\u2028", "\\\\\\", "\n\t", "\x00", "🦭"]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("size", [997, 65_536, 10_000_000])
def test_a_long_value_is_cut_where_json_says_that_it_ends(size: int, plain: bool) -> None:
    document: dict[str, object] = {"a": [1], "z": "the last"}
    for number, awkward in enumerate(AWKWARD_TEXTS):
        long = awkward * (200_000 // len(awkward)) + AWKWARD_TEXTS[number - 1]
        document |= {f"text {number}": long, f"list {number}": [long, {long: [awkward, {}, []]}, 1.5], awkward: awkward}
    assert read_document(chunked_reader(json.dumps(document, ensure_ascii=plain), size), {"a"}) == document


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
            f"at character 6: a value holds over {json_reader.MAX_VALUE_DELIMITERS:,} commas, brackets and braces",
        ),
    ],
)
def test_a_syntax_error_in_a_long_value_is_reported_with_its_position(value: str, says: str, size: int) -> None:
    with pytest.raises(MalformedJson, match=says):
        read_document(chunked_reader(f'{{"b":{value}', size), set())


def test_an_implausible_document_is_refused_before_it_uses_memory() -> None:
    taken = 0

    def read() -> str:
        nonlocal taken
        taken += 1
        return '{"a":[' if taken == 1 else "[]," * 20_000

    cutter = JsonReader(read)
    tracemalloc.start()
    with pytest.raises(MalformedJson):
        [cutter.read_value() for _ in cutter.members()]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 12
    assert most < 10_000_000
