"""Tests of walrusctl doctor: the home, its files, the configuration, and the printed findings."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.fakes.home import ECHO, Home
from tests.fakes.walrusctl_runner import WalrusctlRunner
from tests.walrusctl.doctor_findings import doctor_findings, finding_of
from tests.walrusctl.test_cli_process import PRINT_MODULES, SLOW_MODULES, output_on_terminal
from walrusctl.formatting import wrap_text

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
MACHINE_CHECKS = {"disk", "clock", "limits", "programs", "runtime folder"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home without an installed service; a test may leave it in any state."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    home = Home(tmp_path / "home")
    yield home
    home.path.chmod(0o700)


def test_a_healthy_home_has_no_errors_with_or_without_a_daemon(home: Home) -> None:
    with home.walrusd() as daemon:
        running = doctor_findings(home.path)
        files = sorted(os.listdir(home.path))
        assert running["daemon"][0][1].startswith(
            f"walrusd {version('walrusd')} answers at {home.socket}, pid {daemon.pid}"
        )
        assert files == sorted(os.listdir(home.path))
    stopped, after = doctor_findings(home.path), sorted(os.listdir(home.path))
    for found in (running, stopped):
        assert {
            "home",
            "files",
            "configuration",
            "daemon",
            "provider echo",
            "database",
            "sandbox",
        } | MACHINE_CHECKS <= set(found)
        assert not [finding for findings in found.values() for finding in findings if finding[0] == "error"]
        assert "intact" in found["database"][0][1]
    assert [finding[:2] for finding in stopped["daemon"]] == [("warning", "walrusd is not running")]
    assert not [name for name in after if name.startswith("walrus.db-")], "the checks leave no files behind"


def test_without_a_home_only_the_home_and_the_machine_are_checked(tmp_path: Path) -> None:
    found = doctor_findings(tmp_path / "nowhere")
    assert found["home"] == [
        ("error", f"{tmp_path}/nowhere: there is no such folder", "create it with `make run` or `walrusd --init`")
    ]
    assert found.keys() - MACHINE_CHECKS - {"service"} == {"home"}


def test_a_link_without_a_target_is_reported(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    [(status, message, _)] = doctor_findings(tmp_path / "link")["home"]
    assert (status, message) == (
        "error",
        f"{tmp_path}/link: there is no such folder: it is a link to {tmp_path}/nowhere",
    )


def test_a_link_to_a_home_is_reported_with_its_target(home: Home, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.path)
    [(status, message, _)] = doctor_findings(tmp_path / "link")["home"]
    assert (status, message.partition(", mode")[0]) == ("ok", f"{tmp_path}/link (a link to {home.path})")


def test_a_home_that_others_may_write_or_replace_is_reported(home: Home) -> None:
    home.path.chmod(0o770)
    assert finding_of(home, "home") == (
        "error",
        f"{home.path}: group or others may write the home (mode 0770)",
        f"chmod 700 {home.path}",
    )
    home.path.chmod(0o700)
    home.path.parent.chmod(0o777)
    status, message, hint = finding_of(home, "home")
    assert (status, hint) == ("warning", f"chmod go-w {home.path.parent}, or move the home")
    assert "replace the home" in message


def test_secrets_that_others_may_read_are_reported(home: Home) -> None:
    key = home.write("a.key", "sk-never-shown")
    home.write(
        "walrus.toml",
        f'[providers.x]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_file = "{key}"\nmodels = ["m"]\n',
    )
    database = home.write("walrus.db", "")
    for file in (key, database, home.toml):
        file.chmod(0o640)
    found = doctor_findings(home.path)
    assert sorted(found["files"]) == sorted(
        ("warning", f"other users may read {file} (mode 0640)", f"chmod go-rwx {file}")
        for file in (key, database, home.toml)
    )
    assert "configuration" in found


def test_a_file_that_others_may_write_is_an_error(home: Home) -> None:
    prompt = home.write("agents/walrus.md", "Be good.")
    prompt.chmod(0o666)
    assert finding_of(home, "files") == ("error", f"other users may write {prompt} (mode 0666)", f"chmod go-w {prompt}")


@ROOT_ONLY
def test_root_gets_a_finding_with_the_owner_and_files_that_the_owner_cannot_write(home: Home) -> None:
    for path in (home.path.parent, home.path, home.toml):
        os.chown(path, 65534, 65534)
    lock = home.write("walrusd.lock", "")
    found = doctor_findings(home.path)
    [(status, message, _)] = found["home"]
    assert (status, message) == ("ok", f"{home.path}, mode 0700, owner nobody; you are root")
    assert found["files"] == [("error", f"{lock} belongs to root, but walrusd runs as nobody", f"chown nobody {lock}")]


AS_NOBODY = """
import os
import walrus_config.load, walrusctl.commands.doctor, walrusctl.doctor.runner
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""
"""A prelude that switches to the user `nobody`.

It imports all modules first, since the other user may not be able to read them.
"""


@ROOT_ONLY
def test_a_user_of_another_owners_home_gets_a_finding() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        home = Home(Path(folder) / "home")
        for mode in (0o700, 0o755):
            home.path.chmod(mode)
            stdout, stderr = (
                WalrusctlRunner(home.path).start_process("doctor", "--json", prelude=AS_NOBODY).communicate(timeout=30)
            )
            assert b"Traceback" not in stderr
            found = {check["name"]: check for check in json.loads(stdout)["checks"]}
            assert found["home"]["message"] == f"{home.path}: the home belongs to root, and walrusd runs as nobody"
            assert {"disk", "limits"} <= found.keys()


def test_keys_for_the_service_that_others_may_read_are_reported(home: Home) -> None:
    keys = home.write("environment", "DEEPSEEK_API_KEY=sk-never-shown")
    keys.chmod(0o644)
    assert finding_of(home, "files") == ("warning", f"other users may read {keys} (mode 0644)", f"chmod go-rwx {keys}")


def test_a_broken_walrus_toml_is_reported_with_lines_and_the_other_checks_run(home: Home) -> None:
    home.write("walrus.toml", "[agents.a]\nmodle = 1\n[agents.a.budget]\nusd_per_day = 1\n")
    found = doctor_findings(home.path)
    assert found["configuration"] == [
        ("error", f"{home.toml}:2: agents.a.modle: unknown key", "did you mean model?"),
        ("error", f"{home.toml}:3: agents.a.budget: not available yet", "remove it"),
    ]
    assert {"daemon", "database", *MACHINE_CHECKS} <= set(found)


def test_warnings_of_the_configuration_are_reported(home: Home) -> None:
    home.write("walrus.toml", f"{ECHO}\n[agents.walrus]\nmembers = ['other']\n")
    status, message, _ = finding_of(home, "configuration")
    assert (status, f"{home.toml}:" in message) == ("warning", True)


def test_a_missing_walrus_toml_is_reported_with_a_hint(home: Home) -> None:
    home.toml.unlink()
    assert finding_of(home, "configuration") == (
        "error",
        f"{home.toml}: there is no such file",
        "create it with `walrusd --init`; an empty file is enough",
    )


def test_a_terminal_gets_marks_and_a_pipe_gets_words(home: Home) -> None:
    terminal = WalrusctlRunner(home.path)
    terminal.environ["PYTHONIOENCODING"] = "utf-8"
    shown = output_on_terminal(terminal, "doctor")
    assert f"\x1b[32m✓\x1b[0m home            {home.path}, mode 0700" in shown
    assert "\x1b[33m!\x1b[0m daemon          walrusd is not running\n                  hint: start it" in shown
    for unmarked in ({"NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}):
        plain = WalrusctlRunner(home.path)
        plain.environ |= unmarked
        assert f"ok       home            {home.path}, mode 0700" in output_on_terminal(plain, "doctor")
    words = WalrusctlRunner(home.path).run("doctor")
    assert (words.exit_code, words.stderr) == (0, "")
    assert "warning  daemon          walrusd is not running\n                         hint: start it" in words.stdout


def test_on_a_terminal_a_wrapped_finding_is_indented(home: Home) -> None:
    home.write("walrus.toml", f"{ECHO}\n[agents.walrus]\nmembers = ['other']\n")
    (_, message, _) = finding_of(home, "configuration")
    terminal = WalrusctlRunner(home.path)
    terminal.environ["NO_COLOR"] = "1"
    shown = output_on_terminal(terminal, "doctor", columns=60)
    assert f"warning  configuration   {wrap_text(message, 60, 25)}\n" in shown
    assert message not in shown


def test_help_imports_nothing_slow(home: Home) -> None:
    child = WalrusctlRunner(home.path).start_process("doctor", "--help", prelude=PRINT_MODULES)
    _, stderr = child.communicate(timeout=30)
    assert child.returncode == 0
    assert {name.partition(".")[0] for name in stderr.decode().split()} & SLOW_MODULES == set()
    statements = "import walrusctl.doctor.runner, sys; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", statements], env=home.environ(), text=True)
    assert {name.partition(".")[0] for name in loaded.split()} & SLOW_MODULES == set()
