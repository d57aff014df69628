"""Tests of walrusctl logs: the journal of the service, and hints if there is none."""

from pathlib import Path

import pytest

from tests.fakes.service_account import ServiceAccount


def test_logs_runs_journalctl_for_the_service(tmp_path: Path, service_account: ServiceAccount) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "journalctl").write_text('#!/bin/sh\necho "$*"\n')
    (folder / "journalctl").chmod(0o755)
    service_account.run("service", "install")
    service_account.environ["PATH"] = f"{folder}:/usr/bin:/bin"
    prelude = f"import walrusctl.commands.logs as logs; logs.JOURNAL_FILES = ({f'{tmp_path}/*/journalctl'!r},);"
    with service_account.start_process("logs", "-f", "-n", 7, "--json", prelude=prelude) as child:
        out, err = child.communicate(timeout=20)
    assert (out.decode(), err.decode()) == (
        "--user --unit walrusd.service --follow --lines 7 --output json\n",
        "",
    )


def test_without_a_journal_a_hint_shows_where_the_log_is(service_account: ServiceAccount) -> None:
    service_account.run("service", "install")
    done = service_account.run("logs")
    assert done.exit_code == 3
    assert "walrusd logs to stderr" in done.stderr


@pytest.mark.parametrize("option", [(), ("-f",)])
def test_without_a_service_the_error_shows_where_the_log_is(
    service_account: ServiceAccount, option: tuple[str, ...]
) -> None:
    done = service_account.run("logs", *option)
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == (
        "walrusctl: walrusd is not installed as a service; it logs to the stderr of the shell that started it\n"
    )


def test_the_log_of_the_service_of_another_home_is_not_shown(service_account: ServiceAccount) -> None:
    service_account.run("service", "install")
    done = service_account.run("logs", "--home", f"{service_account.environ['HOME']}/b")
    assert done.exit_code == 3
    assert done.stderr == (
        f"walrusctl: the service is for the home {service_account.home}\n"
        f"  hint: `walrusctl --home {service_account.home} logs` shows its log\n"
    )


@pytest.mark.parametrize("lines", ["0", "-1", "1000001", "99999999999999999999999", "many"])
def test_a_number_of_lines_that_journalctl_refuses_is_a_usage_error(
    service_account: ServiceAccount, lines: str
) -> None:
    service_account.run("service", "install")
    done = service_account.run("logs", "-n", lines)
    assert done.exit_code == 2
    assert "--lines" in done.stderr
