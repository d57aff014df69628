"""Runs systemctl, journalctl and loginctl for the user's systemd, and explains why there is none."""

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from walrusctl.context import CommandFailed

QUERY_TIMEOUT_S = 10.0
"""Seconds for a command that systemd answers immediately."""
NO_SYSTEMCTL = "there is no systemctl here"
_PROCESS_EXITED = "98e322203f7a4ed290d09fe03c09fe15"
"""SD_MESSAGE_UNIT_PROCESS_EXIT: the id of the journal entry about a service's failed process."""


class SystemctlFailed(CommandFailed):
    """A systemctl command failed or timed out."""


class UserSystemd(NamedTuple):
    """A running `systemd --user`."""

    environ: Mapping[str, str]
    """Environment for systemctl, so that it finds this systemd."""
    service_environment: Mapping[str, str]
    """Environment that systemd gives to its services."""

    def run(self, *arguments: str, timeout_s: float = QUERY_TIMEOUT_S) -> str:
        """Returns the output of a systemctl command. Raises SystemctlFailed."""
        command = f"systemctl --user {' '.join(arguments)}"
        try:
            done = _run_systemctl(self.environ, *arguments, timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            raise SystemctlFailed(
                f"`{command}` did not finish within {timeout_s:.0f} s",
                "it may still finish; check with `walrusctl service status`",
            ) from None
        if done.returncode != 0:
            reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
            raise SystemctlFailed(f"`{command}` failed: {reason}", "`walrusctl logs` may show the reason")
        return done.stdout

    def read_properties(self, unit: str, *names: str) -> dict[str, str]:
        """Returns properties of a unit by name. Raises SystemctlFailed."""
        lines = self.run("show", unit, f"--property={','.join(names)}").splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def read_last_failure(self, unit: str) -> dict[str, str]:
        """Returns the fields of the last journal entry about the unit's failed process, {} if none."""
        # Not --user: it finds nothing if the journal is only in memory. These matches select the same entries.
        matches = [f"_UID={os.geteuid()}", f"USER_UNIT={unit}", f"MESSAGE_ID={_PROCESS_EXITED}"]
        try:
            done = run_program(self.environ, "journalctl", *matches, "--lines=1", "--output=json", "--quiet")
            entry = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return {}
        fields = entry.items() if isinstance(entry, dict) else ()
        return {name: value for name, value in fields if isinstance(value, str)}


def hint_without_systemd(reason: str) -> str:
    """Returns the hint for a reason that `find_user_systemd` gave; "" if there is nothing to do."""
    return "" if reason == NO_SYSTEMCTL else "log in as yourself, not by su or sudo"


def find_user_systemd(environ: Mapping[str, str]) -> UserSystemd | str:
    """Returns the user's systemd, or the reason why there is none."""
    if shutil.which("systemctl", path=environ.get("PATH")) is None:
        return NO_SYSTEMCTL
    runtime = f"/run/user/{os.geteuid()}"
    if not environ.get("XDG_RUNTIME_DIR") and os.path.isdir(runtime):
        environ = {**environ, "XDG_RUNTIME_DIR": runtime}  # su and sudo do not set it
    try:
        done = _run_systemctl(environ, "show-environment", timeout_s=QUERY_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"the user's systemd did not answer within {QUERY_TIMEOUT_S:.0f} s"
    if done.returncode != 0:
        return f"no systemd runs for this user ({' '.join(done.stderr.split()) or 'systemctl gives no reason'})"
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return UserSystemd(environ, {name: value for name, _, value in pairs})


def is_lingering(environ: Mapping[str, str]) -> bool | None:
    """Whether the user's services run without a login; None if that is unknown."""
    name = _user_name()
    try:
        done = run_program(environ, "loginctl", "show-user", name, "--property=Linger")
    except (OSError, subprocess.TimeoutExpired):
        return None
    known = {"Linger=yes": True, "Linger=no": False}.get(done.stdout.strip())
    # loginctl may know nothing about a user that is not logged in; the setting itself is a file.
    return True if known is None and os.path.exists(f"/var/lib/systemd/linger/{name}") else known


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _run_systemctl(environ: Mapping[str, str], *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return run_program(environ, "systemctl", "--user", "--no-ask-password", *arguments, timeout_s=timeout_s)


def run_program(
    environ: Mapping[str, str], *command: str, timeout_s: float = QUERY_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Runs a program of the system, found on this process's PATH. Raises OSError and subprocess.TimeoutExpired."""
    return subprocess.run(  # noqa: S603 - no shell, and the arguments are ours
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )
