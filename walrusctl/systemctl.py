"""The user's systemd, asked and told through systemctl; and what may be missing of it."""

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

QUERY_TIMEOUT_S = 10.0
"""For what the manager knows or notes."""
NO_SYSTEMCTL = "there is no systemctl here"
_PROCESS_EXITED = "98e322203f7a4ed290d09fe03c09fe15"
"""SD_MESSAGE_UNIT_PROCESS_EXIT: what systemd marks its word of how a service's process failed with."""


class SystemctlFailed(Exception):
    """systemctl refused. `hint` tells a person what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UserSystemd(NamedTuple):
    """A running `systemd --user`."""

    environ: Mapping[str, str]
    """For systemctl to find it."""
    service_environment: Mapping[str, str]
    """What it gives its services as their environment."""

    def run(self, *arguments: str, timeout_s: float = QUERY_TIMEOUT_S) -> str:
        """What systemctl printed. Raises ManagerFailed."""
        typed = f"systemctl --user {' '.join(arguments)}"
        try:
            done = _run_systemctl(self.environ, *arguments, timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            raise SystemctlFailed(
                f"`{typed}` was not done within {timeout_s:.0f} s", "it may still come: `walrusctl service status`"
            ) from None
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
            raise SystemctlFailed(f"`{typed}` failed: {said}", "`walrusctl logs` may tell why")
        return done.stdout

    def read_properties(self, unit: str, *names: str) -> dict[str, str]:
        """Raises ManagerFailed."""
        lines = self.run("show", unit, f"--property={','.join(names)}").splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def read_last_failure(self, unit: str) -> dict[str, str]:
        """The fields of the journal's last word of how the unit's process failed; empty where the journal has none."""
        # Not --user, which sees nothing where the journal is kept in memory: the same, said as what to match.
        matches = [f"_UID={os.geteuid()}", f"USER_UNIT={unit}", f"MESSAGE_ID={_PROCESS_EXITED}"]
        try:
            asked = subprocess.run(  # noqa: S603 - no shell, and the words are ours
                ["journalctl", *matches, "--lines=1", "--output=json", "--quiet"],  # noqa: S607 - the user's own PATH decides
                env=self.environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=QUERY_TIMEOUT_S,
                check=False,
            )
            said = json.loads(asked.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return {}
        fields = said.items() if isinstance(said, dict) else ()
        return {name: value for name, value in fields if isinstance(value, str)}


def hint_without_systemd(reason: str) -> str:
    """What to do where find_manager says that there is none."""
    return "" if reason == NO_SYSTEMCTL else "log in as yourself, not by su or sudo"


def find_user_systemd(environ: Mapping[str, str]) -> UserSystemd | str:
    """The manager, or why there is none."""
    if shutil.which("systemctl", path=environ.get("PATH")) is None:
        return NO_SYSTEMCTL
    runtime = f"/run/user/{os.geteuid()}"
    if not environ.get("XDG_RUNTIME_DIR") and os.path.isdir(runtime):
        environ = {**environ, "XDG_RUNTIME_DIR": runtime}  # by su and sudo one comes without it
    try:
        asked = _run_systemctl(environ, "show-environment", timeout_s=QUERY_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"the user's systemd has not answered for {QUERY_TIMEOUT_S:.0f} s"
    if asked.returncode != 0:
        return f"no systemd runs for this user ({' '.join(asked.stderr.split()) or 'systemctl does not say why'})"
    pairs = (line.partition("=") for line in asked.stdout.splitlines())
    return UserSystemd(environ, {name: value for name, _, value in pairs})


def is_lingering(environ: Mapping[str, str]) -> bool | None:
    """Whether the user's services run without a login; None where nobody can say."""
    name = _user_name()
    try:
        asked = subprocess.run(  # noqa: S603 - no shell, and the name is the system's
            ["loginctl", "show-user", name, "--property=Linger"],  # noqa: S607 - the user's own PATH decides
            env=environ,
            capture_output=True,
            text=True,
            timeout=QUERY_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    known = {"Linger=yes": True, "Linger=no": False}.get(asked.stdout.strip())
    # Of who is not logged in loginctl may know nothing; what it keeps is a file.
    return True if known is None and os.path.exists(f"/var/lib/systemd/linger/{name}") else known


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _run_systemctl(environ: Mapping[str, str], *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - no shell, and the words are ours
        ["systemctl", "--user", "--no-ask-password", *arguments],  # noqa: S607 - the user's own PATH decides
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
