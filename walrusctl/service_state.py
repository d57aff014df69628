"""Reads the state of the walrusd service from systemd: its two units, and how its last process ended."""

import signal
from collections.abc import Mapping
from typing import NamedTuple

from walrusctl import systemd_units
from walrusctl.systemctl import UserSystemd

_CLD_EXITED = "1"
"""systemd's code (as in waitid) for a process that exited; other codes mean that a signal ended it."""
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
    75: "another walrusd uses this home",
    78: "the configuration or the database cannot be used; `walrusctl logs` shows the reason",
}
_RESULT_REASONS = {
    "watchdog": "by the watchdog: its event loop or its store did not respond for two minutes",
    "oom-kill": "the system ran out of memory",
    "timeout": "it took too long to start or to stop",
    "start-limit-hit": "it was started too often",
}


class ProcessExit(NamedTuple):
    """The end of a process: `number` is a signal if `by_signal`, otherwise an exit status."""

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
    """`listening`, or otherwise the ActiveState of the socket unit."""
    pid: int | None
    result: str
    last_exit: ProcessExit | None
    """None if no process of the service is known to have ended."""
    restarts: int

    @property
    def state(self) -> str:
        return self.active if self.active == self.sub else f"{self.active}, {self.sub}"

    @property
    def exit_reason(self) -> str:
        """How the last process ended; "" if it stopped normally or none has ended."""
        if self.last_exit is None or self.last_exit == ProcessExit(by_signal=False, number=0):
            return ""
        known = None if self.last_exit.by_signal else _EXIT_STATUS_REASONS.get(self.last_exit.number)
        reason = known or _RESULT_REASONS.get(self.result)
        return f"{self.last_exit}: {reason}" if reason else str(self.last_exit)


def read_service_state(systemd: UserSystemd) -> ServiceState:
    """Reads both units. Raises SystemctlFailed."""
    properties = systemd.read_properties(systemd_units.SERVICE, *_SERVICE_PROPERTIES)
    socket = systemd.read_properties(systemd_units.SOCKET, "ActiveState").get("ActiveState", "unknown")
    pid, restarts = int(properties.get("MainPID", "0")) or None, int(properties.get("NRestarts", "0"))
    return ServiceState(
        active=properties.get("ActiveState", "unknown"),
        sub=properties.get("SubState", "unknown"),
        enabled=properties.get("UnitFileState", ""),
        socket="listening" if socket == "active" else socket,
        pid=pid,
        result=properties.get("Result", ""),
        last_exit=_read_exit(properties) or (_read_exit_before_restart(systemd) if restarts else None),
        restarts=restarts,
    )


def _read_exit(properties: Mapping[str, str]) -> ProcessExit | None:
    code, status = properties.get("ExecMainCode", "0"), properties.get("ExecMainStatus", "")
    return ProcessExit(code != _CLD_EXITED, int(status)) if code != "0" and status.isdigit() else None


def _read_exit_before_restart(systemd: UserSystemd) -> ProcessExit | None:
    """Reads the last exit from the journal: systemd itself forgets it at the next start."""
    entry = systemd.read_last_failure(systemd_units.SERVICE)
    code, status = entry.get("EXIT_CODE"), entry.get("EXIT_STATUS", "")
    return ProcessExit(code != "exited", int(status)) if code and status.isdigit() else None
