"""Tests of the formatting functions: tables and fields that fit a terminal, numbers and times."""

import time
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from walrusctl.formatting import (
    format_bytes,
    format_count,
    format_duration,
    format_fields,
    format_table,
    format_time,
    format_time_short,
    wrap_text,
)

NOON = datetime(2026, 11, 2, 12, 0, 0).astimezone().timestamp()
words = st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)).map(" ".join)


def test_a_time_of_today_is_shown_without_its_date() -> None:
    assert format_time_short(NOON, NOON + 3600) == "12:00:00"
    assert (
        format_time_short(NOON, NOON + 86_400)
        == format_time(NOON)
        == time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOON))
    )


def test_a_table_is_cut_at_the_width_of_the_terminal_and_not_in_a_pipe() -> None:
    rows = [("one", "a text that is long"), ("two", "short")]
    assert format_table(("N", "TEXT"), rows) == "N    TEXT\none  a text that is long\ntwo  short"
    assert format_table(("N", "TEXT"), rows, 12) == "N    TEXT\none  a text…\ntwo  short"


def test_a_wrapped_value_is_indented() -> None:
    pairs = [("home", "/h"), ("agents", "walrus, poet, clerk, librarian")]
    assert format_fields(pairs, 24) == "home    /h\nagents  walrus, poet, clerk,\n        librarian", (
        "a line has at least 20 characters"
    )
    assert format_fields(pairs, 30) == "home    /h\nagents  walrus, poet, clerk,\n        librarian"
    assert format_fields(pairs) == "home    /h\nagents  walrus, poet, clerk, librarian"


def test_numbers_are_formatted_for_people() -> None:
    assert [format_count(0, "row"), format_count(1, "row"), format_count(1500, "row")] == [
        "0 rows",
        "1 row",
        "1,500 rows",
    ]
    sizes = (0, 1, 999, 1000, 24_576, 999_949, 999_950, 51_200_000, 2.5e9, 1.5e13)
    assert [*map(format_bytes, sizes)] == [
        "0 bytes", "1 byte", "999 bytes", "1.0 kB", "24.6 kB", "999.9 kB", "1.0 MB", "51.2 MB", "2.5 GB", "15,000.0 GB",
    ]  # fmt: skip
    times = (90 * 86_400, 86_400, 5400, 60, 1e-05 * 86_400)
    assert [*map(format_duration, times)] == ["90 days", "1 day", "1.5 hours", "1 minute", "0.864 seconds"]


def test_a_path_is_never_broken() -> None:
    path = "/a/very/long/path/of-a/socket-that-a-person/may/want/to/copy.sock"
    assert wrap_text(f"it is at {path}, there", 40, 4) == f"it is at\n    {path},\n    there"


@given(words, st.integers(1, 100), st.integers(0, 20))
def test_wrapping_loses_no_word_and_keeps_the_width_if_possible(text: str, width: int, indent: int) -> None:
    lines = wrap_text(text, width, indent).split("\n")
    assert " ".join(lines).split() == text.split()
    limit = max(width, indent + 20)
    assert all(len(line) <= limit for line in [" " * indent + lines[0], *lines[1:]])
