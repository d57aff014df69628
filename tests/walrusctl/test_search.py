"""Tests of walrusctl session search: tables for people, JSON for programs."""

import fcntl
import os
import pty
import struct
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert, to_builtins
from msgspec.structs import replace

from tests.fakes.daemon import FakeCall, FakeDaemon, fails, returns
from tests.fakes.home import MAX_WAIT_S
from tests.fakes.walrusctl_runner import WalrusctlRunner
from walrus_protocol.methods.search import Hit, Hits, Mark, SearchParams
from walrusctl.commands.search import crop_snippet
from walrusctl.formatting import format_time

TS = 1_793_577_600.0
SEA = Hit(
    session=12,
    seq=3,
    offset=90,
    agent="poet",
    role="assistant",
    ts=TS + 60,
    snippet="…why the sea is boiling hot, said the Walrus",
    marks=(Mark(9, 12), Mark(38, 44)),
)
CLERK = Hit(session=7, seq=2, offset=41, agent="clerk", role="user", ts=TS, snippet="a walrus at sea", marks=())


def pages(call: FakeCall) -> Hits:
    """Returns one hit per page."""
    params = call.request.params
    assert isinstance(params, SearchParams)
    return Hits(hits=(SEA,), cursor="90") if params.cursor is None else Hits(hits=(CLERK,))


@pytest.fixture
def daemon(tmp_path: Path) -> FakeDaemon:
    return FakeDaemon(tmp_path / "walrus.sock", {"session.search": pages})


def test_the_hits_of_all_pages_are_one_line_each(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        result = terminal.run("session", "search", "walrus", "sea")
    assert (result.exit_code, result.stderr) == (0, "")
    headers, *rows = result.stdout.splitlines()
    assert headers.split() == ["SESSION", "SEQ", "AGENT", "TIME", "BY", "TEXT"]
    assert rows == [
        f"12       3    poet   {format_time(TS + 60)}  assistant  {SEA.snippet}",
        f"7        2    clerk  {format_time(TS)}  user       {CLERK.snippet}",
    ]
    assert daemon.params("session.search")[0] == SearchParams(query="walrus sea", limit=50)


def test_with_a_limit_a_note_reports_that_there_are_more(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        result = terminal.run("session", "search", "walrus", "--limit", 1)
        assert len(result.stdout.splitlines()) == 2
        assert result.stderr == "there are more: raise --limit\n"
        [found] = terminal.json_lines("session", "search", "walrus", "--limit", 1)
    assert convert(found, Hits) == Hits(hits=(SEA,), cursor="90")


def test_quoted_words_are_sent_with_their_quotes(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    with daemon:
        terminal.run("session", "search", '"boiling hot"', "wal*", "--limit", 1)
    assert daemon.params("session.search") == [SearchParams(query='"boiling hot" wal*', limit=1)]


def test_without_matches_the_table_has_no_rows_and_stderr_a_note(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.search"] = returns(Hits(hits=()))
    with daemon:
        result = terminal.run("session", "search", "x")
    assert (result.exit_code, result.stdout) == (0, "SESSION  SEQ  AGENT  TIME  BY  TEXT\n")
    assert result.stderr == "no matches\n"


def test_a_query_without_words_is_a_usage_error(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.search"] = fails("invalid_params", "query: there is no word in '?'", "Words are of letters.")
    with daemon:
        result = terminal.run("session", "search", "?")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "walrusctl: query: there is no word in '?'\n  hint: Words are of letters.\n"
    assert terminal.run("session", "search").exit_code == 2


@pytest.mark.parametrize(("no_color", "bold", "plain"), [("", "\x1b[1m", "\x1b[0m"), ("1", "", "")])
def test_on_a_terminal_matches_are_bold_and_escapes_are_removed(
    daemon: FakeDaemon, terminal: WalrusctlRunner, no_color: str, bold: str, plain: str
) -> None:
    hostile = replace(CLERK, snippet="\x1b[31mred\x07 w\ufdd0alrus\ufdd1 \x1b]0;x", marks=(Mark(10, 17), Mark(19, 23)))
    daemon.script["session.search"] = returns(Hits(hits=(SEA, hostile)))
    terminal.environ["NO_COLOR"] = no_color
    ours, theirs = pty.openpty()
    with daemon, terminal.start_process("session", "search", "walrus", stdout=theirs) as child:
        os.close(theirs)
        assert child.wait(MAX_WAIT_S) == 0
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert f"why the {bold}sea{plain} is boiling hot, said the {bold}Walrus{plain}" in shown
    assert f"red {bold}w alrus{plain}" in shown
    assert "\x1b[31m" not in shown
    assert "\x1b]" not in shown
    assert "\ufdd0" not in shown


def test_on_a_narrow_terminal_a_line_is_cut_around_the_match(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    text = "The time has come to talk of many things, of shoes and ships and sealing-wax, and whether pigs have wings"
    pigs = replace(SEA, snippet=text, marks=(Mark(text.index("pigs"), text.index("pigs") + 4),))
    daemon.script["session.search"] = returns(Hits(hits=(pigs, CLERK)))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    terminal.environ["NO_COLOR"] = "1"
    with daemon, terminal.start_process("session", "search", "pigs", stdout=theirs) as child:
        os.close(theirs)
        assert child.wait(MAX_WAIT_S) == 0
    headers, *rows = os.read(ours, 4096).decode().splitlines()
    os.close(ours)
    assert headers.split() == ["SESSION", "SEQ", "AGENT", "TIME", "BY", "TEXT"]
    assert rows == [
        f"12       3    poet   {format_time(TS + 60)}  assistant  …nd whether pigs have wings",
        f"7        2    clerk  {format_time(TS)}  user       {CLERK.snippet}",
    ]
    assert all(len(row) <= 80 for row in rows)


@given(st.text("abc", max_size=120), st.integers(20, 100), st.data())
def test_a_cropped_snippet_fits_and_still_shows_the_first_match(text: str, max_chars: int, data: st.DataObject) -> None:
    ends = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    marks = tuple(Mark(start, end) for start, end in zip(ends[::2], ends[1::2], strict=False))
    hit = to_builtins(replace(SEA, snippet=text, marks=marks))
    cropped = crop_snippet(hit, max_chars)
    snippet, visible = cropped["snippet"], cropped["marks"]
    assert len(snippet) == min(max_chars, len(text))
    assert snippet.removeprefix("…").removesuffix("…") in text
    found = [snippet[mark["start"] : mark["end"]] for mark in visible]
    assert all(found)
    assert "…" not in "".join(found)
    assert not marks or text[marks[0].start : marks[0].end].startswith(found[0])
