"""How the service stands: what systemd says of its two units, and how the last walrusd of it ended."""

import signal
from collections.abc import Mapping
from typing import NamedTuple

from walrusctl import units
from walrusctl.systemctl import Manager

_EXITED = "1"
"""systemd's number, which is waitpid's, for an end by exit; others are ends by a signal."""
_OF_THE_SERVICE = (
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "Result",
    "ExecMainCode",
    "ExecMainStatus",
    "NRestarts",
)
_STATUSES = {
    75: "another walrusd has this home",
    78: "the configuration or the database cannot be used; `walrusctl logs` shows what was said of it",
}
_RESULTS = {
    "watchdog": "by the watchdog: its loop or its store was silent for two minutes",
    "oom-kill": "the system had no memory left",
    "timeout": "it took too long to start or to stop",
    "start-limit-hit": "it was started too often",
}


class End(NamedTuple):
    """Of a process: by a signal, or by an exit."""

    by_signal: bool
    number: int

    def of_json(self) -> dict[str, int]:
        return {"signal" if self.by_signal else "status": self.number}

    def __str__(self) -> str:
        if not self.by_signal:
            return f"exit status {self.number}"
        try:
            name = signal.Signals(self.number).name.removeprefix("SIG")
        except ValueError:
            return f"killed by signal {self.number}"
        return f"killed by signal {self.number} ({name})"


class Standing(NamedTuple):
    active: str
    sub: str
    enabled: str
    socket: str
    """listening, or what else systemd says of the socket's unit."""
    pid: int | None
    result: str
    last_end: End | None
    """None where no walrusd of the service has ended, as far as is known."""
    restarts: int

    @property
    def state(self) -> str:
        return self.active if self.active == self.sub else f"{self.active}, {self.sub}"

    @property
    def why(self) -> str:
        """How it ended last, where that was no ordinary stop."""
        if self.last_end is None or self.last_end == End(by_signal=False, number=0):
            return ""
        known = None if self.last_end.by_signal else _STATUSES.get(self.last_end.number)
        reason = known or _RESULTS.get(self.result)
        return f"{self.last_end}: {reason}" if reason else str(self.last_end)


def standing(manager: Manager) -> Standing:
    """Raises ManagerFailed."""
    now = manager.properties(units.SERVICE, *_OF_THE_SERVICE)
    socket = manager.properties(units.SOCKET, "ActiveState").get("ActiveState", "unknown")
    pid, restarts = int(now.get("MainPID", "0")) or None, int(now.get("NRestarts", "0"))
    return Standing(
        active=now.get("ActiveState", "unknown"),
        sub=now.get("SubState", "unknown"),
        enabled=now.get("UnitFileState", ""),
        socket="listening" if socket == "active" else socket,
        pid=pid,
        result=now.get("Result", ""),
        last_end=_ended(now) or (_restarted_after(manager) if restarts else None),
        restarts=restarts,
    )


def _ended(now: Mapping[str, str]) -> End | None:
    code, status = now.get("ExecMainCode", "0"), now.get("ExecMainStatus", "")
    return End(code != _EXITED, int(status)) if code != "0" and status.isdigit() else None


def _restarted_after(manager: Manager) -> End | None:
    """systemd forgets an end with the next start; the journal keeps what made it start again."""
    said = manager.last_failure(units.SERVICE)
    code, status = said.get("EXIT_CODE"), said.get("EXIT_STATUS", "")
    return End(code != "exited", int(status)) if code and status.isdigit() else None
