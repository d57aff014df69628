"""Tests of the JSON reader against the json module: documents in any pieces, and error positions."""

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
    """Returns the document's members; the members in `lists` are read element by element."""
    reader, document = JsonReader(read), dict[str, object]()
    for name in reader.members():
        if name in lists:
            document[name] = [json.loads(reader.read_value()) for _ in reader.elements()]
        else:
            document[name] = json.loads(reader.read_value())
    reader.expect_end()
    return document


@pytest.mark.slow
@given(documents, st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_any_document_in_pieces_of_any_size_is_read_as_the_json_module_reads_it(
    document: dict[str, object], size: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    lists = {name for name, value in document.items() if isinstance(value, list)}
    assert read_document(chunked_reader(f" {text}\r\n", size), lists) == document


@pytest.mark.slow
@given(documents, st.data())
def test_a_document_cut_off_anywhere_is_malformed(document: dict[str, object], data: st.DataObject) -> None:
    text = json.dumps(document)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(MalformedJson):
        read_document(chunked_reader(cut, 7), set())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cut off after character 0"),
        ('{"b":"abc', "cut off after character 9"),
        ('{"b":12', "cut off after character 7"),
        ('{"a":[1,', "cut off after character 8"),
        ("[]", "at character 1: an object is missing"),
        ("{a:1}", "at character 2: a name in quotes is missing"),
        ('{"a" 1}', "at character 6: a colon is missing"),
        ('{"b":1 "c":2}', "at character 8: a comma or } is missing"),
        ('{"a":[1 2]}', "at character 9: a comma or ] is missing"),
        ('{"a":[1,]}', "at character 9: expecting value"),
        ('{"a":{}}', "at character 6: an array is missing"),
        ('{"b":tru}', "at character 6: expecting value"),
        ('{"b":NaN}', "at character 6: NaN is not valid JSON"),
        ('{"b":"\n"}', "at character 7: invalid control character"),
        ('{"b":1}x', "at character 8: there is text after its end"),
        ('{"b":1,"b":2}', "'b' is repeated"),
        ('{"b":' + "1" * 5000 + "}", "at character 6: Exceeds the limit"),
        ('{"b":' + "[" * 100_000, "at character 6: it is nested too deeply"),
        ('{"b":' + '{"c":' * 100_000, "at character 6: it is nested too deeply"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1_000_000])
def test_a_syntax_error_is_reported_with_its_position(text: str, message: str, size: int) -> None:
    if size < 9 and len(text) > 9_000:
        size = 4_096
    with pytest.raises(MalformedJson, match=message.replace("[", r"\[")):
        read_document(chunked_reader(text, size), {"a"})


def test_no_more_than_the_current_value_is_buffered() -> None:
    element, reads, max_ahead = json.dumps("x" * 1000), 0, 0

    def read() -> str:
        nonlocal reads
        reads += 1
        return '{"a":[' if reads == 1 else element + ("," if reads < 10_000 else "]}") if reads <= 10_000 else ""

    reader = JsonReader(read)
    for name in reader.members():
        assert name == "a"
        for number in reader.elements():
            assert reader.read_value() == element
            max_ahead = max(max_ahead, reads - number)
    assert max_ahead < 10


def test_an_endless_value_is_refused() -> None:
    reader = JsonReader(lambda: "x" * json_reader.MAX_VALUE_CHARS)
    with pytest.raises(MalformedJson, match="an object is missing"):
        next(reader.members())
    pieces = iter(['{"a":"'])
    reader = JsonReader(lambda: next(pieces, "x" * (MAX_VALUE_CHARS // 4)))
    with pytest.raises(MalformedJson, match=f"a value has over {MAX_VALUE_CHARS:,} characters"):
        [reader.read_value() for _ in reader.members()]


AWKWARD_TEXTS = ["\\", '"', '\\"', "]}", '{["', "é\u2028", "\\\\\\", "\n\t", "\x00", "🦭"]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("size", [997, 65_536, 10_000_000])
def test_the_end_of_a_long_value_is_the_same_as_for_the_json_module(size: int, ascii_only: bool) -> None:
    document: dict[str, object] = {"a": [1], "z": "the last"}
    for number, awkward in enumerate(AWKWARD_TEXTS):
        long = awkward * (200_000 // len(awkward)) + AWKWARD_TEXTS[number - 1]
        document |= {f"text {number}": long, f"list {number}": [long, {long: [awkward, {}, []]}, 1.5], awkward: awkward}
    assert read_document(chunked_reader(json.dumps(document, ensure_ascii=ascii_only), size), {"a"}) == document


@pytest.mark.parametrize("size", [997, 65_536])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"' + "x" * 100_000, "cut off after character 100,006"),
        ('"' + "x" * 100_000 + "\\", "cut off after character 100,007"),
        ('["' + "x" * 100_000 + '"', "cut off after character 100,008"),
        ('["' + "x" * 100_000 + '",' + "[" * 5_000, "at character 6: it is nested too deeply"),
        ("tru" + "x" * 200_000, "at character 6: expecting value"),
        (
            "[" + "[]," * 200_000 + "0]",
            f"at character 6: a value has over {json_reader.MAX_VALUE_DELIMITERS:,} commas, brackets and braces",
        ),
    ],
)
def test_a_syntax_error_in_a_long_value_is_reported_with_its_position(value: str, message: str, size: int) -> None:
    with pytest.raises(MalformedJson, match=message):
        read_document(chunked_reader(f'{{"b":{value}', size), set())


@pytest.mark.slow
def test_an_implausible_document_is_refused_before_it_uses_memory() -> None:
    reads = 0

    def read() -> str:
        nonlocal reads
        reads += 1
        return '{"a":[' if reads == 1 else "[]," * 20_000

    reader = JsonReader(read)
    tracemalloc.start()
    with pytest.raises(MalformedJson):
        [reader.read_value() for _ in reader.members()]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reads < 12
    assert peak_bytes < 10_000_000
