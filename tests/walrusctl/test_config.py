"""Tests of walrusctl config: it reads the files itself and prints no secret."""

import json
import tomllib
from pathlib import Path

import pytest

from tests.fakes.walrusctl_runner import WalrusctlRunner

VALID_TOML = """
[providers.mine]
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
api_key = "${SECRET_KEY}"
models = ["m"]

[defaults]
model = "m"

[agents.walrus]
members = ["other"]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    home = tmp_path / "home"
    home.mkdir(0o700)
    (home / "walrus.toml").write_text(VALID_TOML)
    return home


def test_check_prints_ok_and_its_warnings_to_stderr(home: Path) -> None:
    result = WalrusctlRunner(home).run("config", "check")
    assert (result.exit_code, result.stdout) == (0, f"ok: {home}/walrus.toml\n")
    assert result.stderr.startswith("walrusctl: warning: ")
    assert "members" in result.stderr
    as_json = json.loads(WalrusctlRunner(home).run("config", "check", "--json").stdout)
    assert (as_json["ok"], as_json["path"], len(as_json["warnings"])) == (True, f"{home}/walrus.toml", 1)


def test_check_reports_file_line_and_nearest_key_and_exits_2(home: Path) -> None:
    (home / "walrus.toml").write_text("[daemon]\nlog_levl = 'info'\n")
    result = WalrusctlRunner(home).run("config", "check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{home}/walrus.toml:2" in result.stderr
    assert "log_level" in result.stderr
    (problem,) = json.loads(WalrusctlRunner(home).run("config", "check", "--json").stdout)["problems"]
    assert (problem["line"], problem["key"]) == (2, "daemon.log_levl")


def test_check_without_a_file_exits_2(home: Path) -> None:
    (home / "walrus.toml").unlink()
    assert WalrusctlRunner(home).run("config", "check").exit_code == 2


def test_check_reports_problems_of_the_home_like_the_daemon(home: Path) -> None:
    home.chmod(0o770)
    result = WalrusctlRunner(home).run("config", "check")
    assert (result.exit_code, result.stdout) == (2, "")
    message = f"walrusctl: {home}: group or others may write the home (mode 0770); chmod 700 {home}\n"
    assert result.stderr == message
    (problem,) = json.loads(WalrusctlRunner(home).run("config", "check", "--json").stdout)["problems"]
    assert (problem["file"], problem["hint"]) == (str(home), f"chmod 700 {home}")


def test_show_prints_the_active_config_with_stars_for_secrets(home: Path) -> None:
    for option, parse in (((), tomllib.loads), (("--json",), json.loads)):
        result = WalrusctlRunner(home).run("config", "show", *option)
        assert result.exit_code == 0
        assert "hunter2" not in result.output
        shown = parse(result.stdout)
        assert shown["providers"]["mine"]["api_key"] == "***"
        assert shown["agents"]["walrus"]["max_iterations"] == 16


def test_path_prints_the_path_even_if_the_file_does_not_exist(home: Path) -> None:
    assert WalrusctlRunner(home).run("config", "path").output == f"{home}/walrus.toml\n"
    elsewhere = WalrusctlRunner(home).run("config", "path", "--home", "/nowhere/at/all")
    assert elsewhere.output == "/nowhere/at/all/walrus.toml\n"
