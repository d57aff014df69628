"""How the service stands: what systemd says of its two units, and how the last walrusd of it ended."""

import signal
from collections.abc import Mapping
from typing import NamedTuple

from walrusctl import systemd_units
from walrusctl.systemctl import UserSystemd

_CLD_EXITED = "1"
"""systemd's number, which is waitpid's, for an end by exit; others are ends by a signal."""
_SERVICE_PROPERTIES = (
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "Result",
    "ExecMainCode",
    "ExecMainStatus",
    "NRestarts",
)
_EXIT_STATUS_REASONS = {
    75: "another walrusd has this home",
    78: "the configuration or the database cannot be used; `walrusctl logs` shows what was said of it",
}
_RESULT_REASONS = {
    "watchdog": "by the watchdog: its loop or its store was silent for two minutes",
    "oom-kill": "the system had no memory left",
    "timeout": "it took too long to start or to stop",
    "start-limit-hit": "it was started too often",
}


class ProcessExit(NamedTuple):
    """Of a process: by a signal, or by an exit."""

    by_signal: bool
    number: int

    def to_json(self) -> dict[str, int]:
        return {"signal" if self.by_signal else "status": self.number}

    def __str__(self) -> str:
        if not self.by_signal:
            return f"exit status {self.number}"
        try:
            name = signal.Signals(self.number).name.removeprefix("SIG")
        except ValueError:
            return f"killed by signal {self.number}"
        return f"killed by signal {self.number} ({name})"


class ServiceState(NamedTuple):
    active: str
    sub: str
    enabled: str
    socket: str
    """listening, or what else systemd says of the socket's unit."""
    pid: int | None
    result: str
    last_exit: ProcessExit | None
    """None where no walrusd of the service has ended, as far as is known."""
    restarts: int

    @property
    def state(self) -> str:
        return self.active if self.active == self.sub else f"{self.active}, {self.sub}"

    @property
    def exit_reason(self) -> str:
        """How it ended last, where that was no ordinary stop."""
        if self.last_exit is None or self.last_exit == ProcessExit(by_signal=False, number=0):
            return ""
        known = None if self.last_exit.by_signal else _EXIT_STATUS_REASONS.get(self.last_exit.number)
        reason = known or _RESULT_REASONS.get(self.result)
        return f"{self.last_exit}: {reason}" if reason else str(self.last_exit)


def read_service_state(systemd: UserSystemd) -> ServiceState:
    """Raises ManagerFailed."""
    now = systemd.read_properties(systemd_units.SERVICE, *_SERVICE_PROPERTIES)
    socket = systemd.read_properties(systemd_units.SOCKET, "ActiveState").get("ActiveState", "unknown")
    pid, restarts = int(now.get("MainPID", "0")) or None, int(now.get("NRestarts", "0"))
    return ServiceState(
        active=now.get("ActiveState", "unknown"),
        sub=now.get("SubState", "unknown"),
        enabled=now.get("UnitFileState", ""),
        socket="listening" if socket == "active" else socket,
        pid=pid,
        result=now.get("Result", ""),
        last_exit=_read_exit(now) or (_read_exit_before_restart(systemd) if restarts else None),
        restarts=restarts,
    )


def _read_exit(properties: Mapping[str, str]) -> ProcessExit | None:
    code, status = properties.get("ExecMainCode", "0"), properties.get("ExecMainStatus", "")
    return ProcessExit(code != _CLD_EXITED, int(status)) if code != "0" and status.isdigit() else None


def _read_exit_before_restart(systemd: UserSystemd) -> ProcessExit | None:
    """systemd forgets an end with the next start; the journal keeps what made it start again."""
    said = systemd.read_last_failure(systemd_units.SERVICE)
    code, status = said.get("EXIT_CODE"), said.get("EXIT_STATUS", "")
    return ProcessExit(code != "exited", int(status)) if code and status.isdigit() else None
