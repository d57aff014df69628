"""walrusctl logs: the journal's, where there is a service and a journal."""

from pathlib import Path

import pytest

from tests.fakes.desk import Desk


def test_logs_are_the_journals(tmp_path: Path, desk: Desk) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "journalctl").write_text('#!/bin/sh\necho "$*"\n')
    (folder / "journalctl").chmod(0o755)
    desk.types("service", "install")
    desk.environ["PATH"] = f"{folder}:/usr/bin:/bin"
    there = f"import walrusctl.commands.logs as logs; logs.JOURNALS = ({f'{tmp_path}/*/journalctl'!r},);"
    with desk.child("logs", "-f", "-n", 7, "--json", before=there) as child:
        out, err = child.communicate(timeout=20)
    assert (out.decode(), err.decode()) == (
        "--user --unit walrusd.service --follow --lines 7 --output json\n",
        "",
    )


def test_without_a_journal_it_is_told_where_the_log_is(desk: Desk) -> None:
    desk.types("service", "install")
    done = desk.types("logs")
    assert done.exit_code == 3
    assert "walrusd writes its log to stderr" in done.stderr


@pytest.mark.parametrize("option", [(), ("-f",)])
def test_without_a_service_it_is_told_where_the_log_is(desk: Desk, option: tuple[str, ...]) -> None:
    done = desk.types("logs", *option)
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == ("walrusctl: walrusd is not installed as a service; it logs to stderr where it was started\n")


def test_the_log_of_another_homes_service_is_not_shown_as_this_ones(desk: Desk) -> None:
    desk.types("service", "install")
    done = desk.types("logs", "--home", f"{desk.environ['HOME']}/b")
    assert done.exit_code == 3
    assert done.stderr == (
        f"walrusctl: the service is that of {desk.home}\n  hint: `walrusctl --home {desk.home} logs` shows its log\n"
    )


@pytest.mark.parametrize("lines", ["0", "-1", "1000001", "99999999999999999999999", "many"])
def test_a_number_of_lines_that_no_journal_takes_is_refused(desk: Desk, lines: str) -> None:
    desk.types("service", "install")
    done = desk.types("logs", "-n", lines)
    assert done.exit_code == 2
    assert "--lines" in done.stderr
