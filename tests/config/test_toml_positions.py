"""Tests of find_key_lines: it finds the line of each key of any TOML text."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walrus_config.toml_positions import KeyPath, find_key_lines


def paths_of(value: object, at: KeyPath = ()) -> set[KeyPath]:
    """Returns the paths of all tables, keys and list elements of parsed TOML."""
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return {(*at, key) for key, _ in inner} | {path for key, v in inner for path in paths_of(v, (*at, key))}


bare_keys = st.text("abcXYZ019-_", min_size=1, max_size=4)
odd_keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
keys = st.one_of(bare_keys, bare_keys, odd_keys)


def quoted_key(key: str) -> str:
    """Returns the key as a TOML basic string, with control and non-ASCII characters escaped."""
    escaped = "".join(f"\\U{ord(c):08X}" if ord(c) > 126 or ord(c) < 32 else c for c in key.replace("\\", "\\\\"))
    return '"' + escaped.replace('"', '\\"') + '"'


def written_key(key: str) -> str:
    return key if key and all(c in "abcXYZ019-_" for c in key) else quoted_key(key)


scalars = st.one_of(
    st.integers(-99, 99).map(str),
    st.booleans().map(json.dumps),
    odd_keys.map(quoted_key),
    st.sampled_from(
        [
            "1979-05-27 07:32:00",
            "1e3",
            "'# not a comment'",
            "''",
            '"""\n[not.a.table]\nnot_a_key = "" \\\n\n  """',
            "'''\nit''s = 'a'''''",
            '"""a\\""""""',
            "inf",
        ]
    ),
)
gaps = st.sampled_from(["", " ", "\n", " # ] } , = [\n", "\r\n\t"])


def toml_array(elements: list[str], gap: str, end: str) -> str:
    return "[" + gap + f"{gap},{gap}".join(elements) + end + gap + "]"


def inline_table(entries: dict[str, str]) -> str:
    return "{ " + ", ".join(f"{written_key(key)} = {value}" for key, value in entries.items()) + " }"


values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(toml_array, st.lists(inner, min_size=1, max_size=3), gaps, st.sampled_from(["", ","])),
        st.dictionaries(keys, inner, max_size=3).map(inline_table),
    ),
    max_leaves=6,
)


entries = st.one_of(
    st.builds(
        lambda path, dot: "[" + dot.join(map(written_key, path)) + "]",
        st.lists(keys, min_size=1, max_size=3),
        st.sampled_from([".", " . "]),
    ),
    st.lists(keys, min_size=1, max_size=2).map(lambda path: "[[" + ".".join(map(written_key, path)) + "]] # [x]"),
    st.builds(
        lambda path, value: f"{'.'.join(map(written_key, path))}\t= {value}",
        st.lists(keys, min_size=1, max_size=2),
        values,
    ),
    st.sampled_from(["", "# k = 1", "   "]),
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Draws a TOML text: it appends random entries, and skips those that would make it invalid."""
    text = ""
    for entry in draw(st.lists(entries, max_size=8)):
        longer = text + entry + draw(st.sampled_from(["\n", "\r\n"]))
        try:
            tomllib.loads(longer)
        except tomllib.TOMLDecodeError:
            continue
        text = longer
    return text


@given(documents())
def test_every_key_of_any_toml_is_found_and_no_other(text: str) -> None:
    assert set(find_key_lines(text)) == paths_of(tomllib.loads(text))


@pytest.mark.slow
@given(documents(), keys, st.integers(-9, 9))
def test_the_line_of_a_key_is_the_one_on_which_it_is_written(text: str, key: str, value: int) -> None:
    document = f"{text}[it]\n\n{written_key(key)} = {value}\n"
    try:
        tomllib.loads(document)
    except tomllib.TOMLDecodeError:
        return  # the text already has a table [it]
    assert find_key_lines(document)["it", key] == text.count("\n") + 3


def test_lines_count_from_one_and_the_line_of_a_table_is_that_of_its_header() -> None:
    text = """\
title = "a"
[agents.x.heartbeat]
interval = 1

[agents.x]
tools = [
  "a", # one
  "b",
]
price = { input = 1, output = [2] }
[[list]]
a = 1
[[list]]
[list.sub]
b.c = 2
"""
    assert find_key_lines(text) == {
        ("title",): 1,
        ("agents",): 2,
        ("agents", "x"): 5,
        ("agents", "x", "heartbeat"): 2,
        ("agents", "x", "heartbeat", "interval"): 3,
        ("agents", "x", "tools"): 6,
        ("agents", "x", "tools", 0): 7,
        ("agents", "x", "tools", 1): 8,
        ("agents", "x", "price"): 10,
        ("agents", "x", "price", "input"): 10,
        ("agents", "x", "price", "output"): 10,
        ("agents", "x", "price", "output", 0): 10,
        ("list",): 11,
        ("list", 0): 11,
        ("list", 0, "a"): 12,
        ("list", 1): 13,
        ("list", 1, "sub"): 14,
        ("list", 1, "sub", "b"): 15,
        ("list", 1, "sub", "b", "c"): 15,
    }
