"""Runs `walrusctl doctor --json` and returns its findings, for tests of the checks."""

import json
from pathlib import Path

from tests.fakes.home import Home
from tests.fakes.walrusctl_runner import WalrusctlRunner

Finding = tuple[str, str, str]
"""A finding of doctor: status, message and hint."""


def doctor_findings(home: Path, *words: str) -> dict[str, list[Finding]]:
    """Returns the findings by name; checks that the exit status agrees with them."""
    result = WalrusctlRunner(home).run("doctor", "--json", *words)
    checks = json.loads(result.stdout)["checks"]
    assert result.stderr == ""
    assert result.exit_code == any(check["status"] == "error" for check in checks)
    found: dict[str, list[Finding]] = {}
    for check in checks:
        found.setdefault(check["name"], []).append((check["status"], check["message"], check["hint"]))
    return found


def finding_of(home: Home, name: str, *words: str) -> Finding:
    """Returns the only finding of a name."""
    [finding] = doctor_findings(home.path, *words)[name]
    return finding
