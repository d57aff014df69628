"""`read` through the door that a model's call takes: what it shows of a file, and what it says where there is none."""

import os
from pathlib import Path

import pytest

from tests.tools.desk import Desk
from walrusd.tools.files import MOST_SKIPPED


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_a_small_file_is_shown_as_it_is(desk: Desk) -> None:
    (desk.workspace / "notes").mkdir()
    (desk.workspace / "notes" / "today.md").write_text("# Tödäy\n\nfish\n")
    for path in ("notes/today.md", "./notes/../notes//today.md", desk.workspace / "notes" / "today.md"):
        result = await desk.read(path)
        assert (result.outcome, result.output) == ("ok", "# Tödäy\n\nfish\n")


async def test_a_window_says_where_it_ends_and_how_to_go_on(desk: Desk) -> None:
    (desk.workspace / "ten").write_text("".join(f"line {n}\n" for n in range(1, 11)))
    assert (await desk.read("ten", limit=2)).output == (
        "[lines 1 to 2; more follows, go on with offset=3]\nline 1\nline 2\n"
    )
    assert (await desk.read("ten", offset=9)).output == "[lines 9 to 10, the end of the file]\nline 9\nline 10\n"
    assert (await desk.read("ten", limit=10)).output.startswith("line 1\n")
    for beyond in (11, 12, 2**70):
        assert await desk.refusal("ten", offset=beyond) == f"ten has no line {beyond}; it has 10."


async def test_what_does_not_fit_is_left_for_the_next_window(desk: Desk) -> None:
    lines = [f"{n} {'x' * 97}\n" for n in range(1000)]
    (desk.workspace / "long").write_text("".join(lines))
    got, offset = "", 1
    while offset <= 1000:
        result = await desk.read("long", offset=offset)
        assert not result.truncated
        header, _, text = result.output.partition("\n")
        got += text
        offset += text.count("\n")
        assert "the end of the file" in header or f"offset={offset}]" in header
    assert got == "".join(lines)


async def test_a_line_that_cannot_be_shown_whole_is_cut_between_characters(desk: Desk) -> None:
    (desk.workspace / "one").write_text("ä" * 100_000 + "\nsecond\n")
    result = await desk.read("one", cap=1023)
    header, _, text = result.output.partition("\n")
    assert header == (
        "[line 1 is longer than can be shown, its rest is left out; lines 1 to 1; more follows, go on with offset=2]"
    )
    assert text == "ä" * 383
    assert (await desk.read("one", offset=2)).output.endswith("\nsecond\n")


async def test_the_smallest_output_that_may_be_configured_still_shows_something(desk: Desk) -> None:
    (desk.workspace / "ten").write_text("".join(f"line {n}\n" for n in range(1, 100)))
    result = await desk.read("ten", cap=256)
    assert (result.truncated, result.output.count("\n")) == (False, 18)


async def test_a_last_line_without_newline_counts(desk: Desk) -> None:
    (desk.workspace / "two").write_bytes(b"a\nb")
    assert (await desk.read("two", offset=2)).output == "[lines 2 to 2, the end of the file]\nb"
    assert await desk.refusal("two", offset=3) == "two has no line 3; it has 2."


async def test_an_empty_file_is_said_to_be_empty(desk: Desk) -> None:
    (desk.workspace / "void").touch()
    assert (await desk.read("void")).output == "[the file is empty]\n"
    assert await desk.refusal("void", offset=2) == "void has no line 2; it has 0."


async def test_what_is_not_utf_8_is_shown_with_marks_and_said(desk: Desk) -> None:
    (desk.workspace / "latin").write_bytes("Größe\n".encode("latin-1"))
    assert (
        await desk.read("latin")
    ).output == "[not all of it is UTF-8, \ufffd stands for what is not]\nGr\ufffd\ufffde\n"


async def test_what_is_no_text_is_refused(desk: Desk) -> None:
    (desk.workspace / "picture").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    assert await desk.refusal("picture") == "picture is not text: it has NUL bytes."


async def test_of_a_huge_file_only_what_is_needed_is_read(desk: Desk) -> None:
    (desk.workspace / "huge").write_bytes(b"first\n")
    os.truncate(desk.workspace / "huge", 1 << 40)
    assert (await desk.read("huge", limit=1)).output == "[lines 1 to 1; more follows, go on with offset=2]\nfirst\n"
    assert await desk.refusal("huge", offset=3) == (
        f"Line 3 of huge is not within its first {MOST_SKIPPED:,} bytes, where 1 lines end; "
        "what is further down cannot be read."
    )


async def test_a_folder_is_answered_with_what_is_in_it(desk: Desk) -> None:
    (desk.workspace / "notes").mkdir()
    assert await desk.refusal("notes") == (
        "notes is a folder; give the path of a file. It is empty, or cannot be listed."
    )
    (desk.workspace / "b.md").touch()
    assert await desk.refusal(".") == ". is a folder; give the path of a file. It has: b.md, notes/."
    for n in range(60):
        (desk.workspace / "notes" / f"{n:02}").touch()
    assert (await desk.refusal("notes")).endswith("48, 49 and 10 more.")


async def test_a_name_that_is_not_there_is_answered_with_near_ones(desk: Desk) -> None:
    (desk.workspace / "notes").mkdir()
    (desk.workspace / "notes" / "today.md").touch()
    assert await desk.refusal("notes/toady.md") == ("There is no notes/toady.md. Near names in notes: today.md.")
    assert await desk.refusal("note/today.md") == ("There is no note/today.md. Near names in the workspace: notes/.")
    assert await desk.refusal("zzz") == "There is no zzz. In the workspace are: notes/."
    assert await desk.refusal("notes/today.md/x") == "notes/today.md/x cannot be read: today.md is no folder."
