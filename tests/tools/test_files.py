"""Tests of `read` through the pipeline: what it shows of a file, and its errors."""

import os
from pathlib import Path

import pytest

from tests.tools.read_harness import ReadHarness
from walrusd.tools.files import MAX_SKIPPED_BYTES


@pytest.fixture
def harness(tmp_path: Path) -> ReadHarness:
    return ReadHarness(tmp_path)


async def test_a_small_file_is_shown_unchanged(harness: ReadHarness) -> None:
    (harness.workspace / "notes").mkdir()
    (harness.workspace / "notes" / "today.md").write_text("# Tödäy\n\nfish\n")
    for path in ("notes/today.md", "./notes/../notes//today.md", harness.workspace / "notes" / "today.md"):
        result = await harness.read(path)
        assert (result.outcome, result.output) == ("ok", "# Tödäy\n\nfish\n")


async def test_the_header_of_a_part_states_its_end_and_how_to_continue(harness: ReadHarness) -> None:
    (harness.workspace / "ten").write_text("".join(f"line {n}\n" for n in range(1, 11)))
    assert (await harness.read("ten", limit=2)).output == (
        "[lines 1 to 2; there are more, continue with offset=3]\nline 1\nline 2\n"
    )
    assert (await harness.read("ten", offset=9)).output == "[lines 9 to 10, the end of the file]\nline 9\nline 10\n"
    assert (await harness.read("ten", limit=10)).output.startswith("line 1\n")
    for beyond in (11, 12, 2**70):
        assert await harness.error_text("ten", offset=beyond) == f"ten has no line {beyond}; it has 10 lines."


async def test_the_parts_of_a_long_file_join_to_the_whole(harness: ReadHarness) -> None:
    lines = [f"{n} {'x' * 97}\n" for n in range(1000)]
    (harness.workspace / "long").write_text("".join(lines))
    read, offset = "", 1
    while offset <= 1000:
        result = await harness.read("long", offset=offset)
        assert not result.truncated
        header, _, text = result.output.partition("\n")
        read += text
        offset += text.count("\n")
        assert "the end of the file" in header or f"offset={offset}]" in header
    assert read == "".join(lines)


async def test_a_line_that_is_too_long_is_cut_between_characters(harness: ReadHarness) -> None:
    (harness.workspace / "one").write_text("ä" * 100_000 + "\nsecond\n")
    result = await harness.read("one", cap=1023)
    header, _, text = result.output.partition("\n")
    assert header == (
        "[line 1 is too long to show, the rest of it is omitted; lines 1 to 1; there are more, continue with offset=2]"
    )
    assert text == "ä" * 383
    assert (await harness.read("one", offset=2)).output.endswith("\nsecond\n")


async def test_the_smallest_configurable_output_still_shows_lines(harness: ReadHarness) -> None:
    (harness.workspace / "ten").write_text("".join(f"line {n}\n" for n in range(1, 100)))
    result = await harness.read("ten", cap=256)
    assert (result.truncated, result.output.count("\n")) == (False, 18)


async def test_a_last_line_without_newline_counts(harness: ReadHarness) -> None:
    (harness.workspace / "two").write_bytes(b"a\nb")
    assert (await harness.read("two", offset=2)).output == "[lines 2 to 2, the end of the file]\nb"
    assert await harness.error_text("two", offset=3) == "two has no line 3; it has 2 lines."


async def test_an_empty_file_is_reported_as_empty(harness: ReadHarness) -> None:
    (harness.workspace / "void").touch()
    assert (await harness.read("void")).output == "[the file is empty]\n"
    assert await harness.error_text("void", offset=2) == "void has no line 2; it has 0 lines."


async def test_invalid_utf_8_is_shown_with_replacement_characters_and_a_note(harness: ReadHarness) -> None:
    (harness.workspace / "latin").write_bytes("Größe\n".encode("latin-1"))
    assert (
        await harness.read("latin")
    ).output == "[the file is not valid UTF-8, \ufffd replaces invalid bytes]\nGr\ufffd\ufffde\n"


async def test_a_file_that_is_not_text_is_refused(harness: ReadHarness) -> None:
    (harness.workspace / "picture").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    assert await harness.error_text("picture") == "picture is not text: it contains NUL bytes."


async def test_only_the_needed_part_of_a_huge_file_is_read(harness: ReadHarness) -> None:
    (harness.workspace / "huge").write_bytes(b"first\n")
    os.truncate(harness.workspace / "huge", 1 << 40)
    assert (await harness.read("huge", limit=1)).output == (
        "[lines 1 to 1; there are more, continue with offset=2]\nfirst\n"
    )
    assert await harness.error_text("huge", offset=3) == (
        f"Line 3 of huge is not in its first {MAX_SKIPPED_BYTES:,} bytes, which end after line 1. "
        "Lines below them cannot be read."
    )


async def test_the_error_for_a_folder_lists_its_content(harness: ReadHarness) -> None:
    (harness.workspace / "notes").mkdir()
    assert await harness.error_text("notes") == (
        "notes is a folder; give the path of a file. It is empty, or cannot be listed."
    )
    (harness.workspace / "b.md").touch()
    assert await harness.error_text(".") == ". is a folder; give the path of a file. It contains: b.md, notes/."
    for n in range(60):
        (harness.workspace / "notes" / f"{n:02}").touch()
    assert (await harness.error_text("notes")).endswith("48, 49 and 10 more.")


async def test_the_error_for_a_missing_name_lists_similar_ones(harness: ReadHarness) -> None:
    (harness.workspace / "notes").mkdir()
    (harness.workspace / "notes" / "today.md").touch()
    assert await harness.error_text("notes/toady.md") == (
        "notes/toady.md does not exist. Similar names in notes: today.md."
    )
    assert await harness.error_text("note/today.md") == (
        "note/today.md does not exist. Similar names in the workspace: notes/."
    )
    assert await harness.error_text("zzz") == "zzz does not exist. Names in the workspace: notes/."
    assert await harness.error_text("notes/today.md/x") == (
        "notes/today.md/x cannot be read: today.md is not a folder."
    )
