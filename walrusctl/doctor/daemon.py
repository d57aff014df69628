"""Doctor check of walrusd itself: does it run, and what are its warnings?"""

import os
import stat
from collections.abc import Iterator

from walrus_protocol import __version__, wire
from walrus_protocol.client import Client, RequestFailed
from walrusctl.doctor.check import Finding
from walrusctl.doctor.context import DaemonReport, DoctorContext
from walrusctl.lock_owner import LockOwner, find_lock_owner

ANSWER_TIMEOUT_S = 2.0
"""Seconds for one response; a healthy walrusd needs milliseconds."""
NOT_RUNNING = "walrusd is not running"
_START_HINT = "start it with `walrusd`, or with `systemctl --user start walrusd` if it is a service"


def query_daemon(socket: str) -> DaemonReport:
    """Queries the walrusd behind a socket. Raises Unreachable, RequestFailed and TimedOut."""
    with Client(socket, ANSWER_TIMEOUT_S) as client:
        hello = client.call("daemon.hello", {"client": "walrusctl doctor", "protocol": wire.PROTOCOL})
        daemon = DaemonReport(hello["pid"], hello["version"], hello["home"], hello["uptime_s"])
        try:
            status, config_check = client.call("daemon.status"), client.call("config.check")
        except RequestFailed as error:
            if error.kind == "from_tool":  # processes of tools may not call these methods
                return daemon
            raise
    start_error = "" if config_check["ok"] else config_check["message"]
    return daemon._replace(warnings=tuple(status["warnings"]), start_error=start_error)


def check_daemon(context: DoctorContext) -> Iterator[Finding]:
    if daemon := context.daemon:
        yield from _check_running(context, daemon)
    elif context.socket:
        yield _check_unresponsive(context, find_lock_owner(context.paths.lock))
    else:
        hint = "choose a shorter path with --socket, WALRUS_SOCKET or [daemon] socket, or a home with a shorter path"
        yield Finding("error", "the path of the socket is too long for the system", hint)


def _check_running(context: DoctorContext, report: DaemonReport) -> Iterator[Finding]:
    if os.path.realpath(report.home) != os.path.realpath(context.home):
        message = f"the walrusd at {context.socket} (pid {report.pid}) runs on another home, {report.home}"
        yield Finding("error", message, f"use this home's own socket, or --home {report.home}")
    elif report.version != __version__:
        message = f"walrusd (pid {report.pid}) is version {report.version}, this walrusctl is {__version__}"
        yield Finding("warning", message, "restart walrusd, or use the walrusctl of its installation")
    else:
        message = f"walrusd {__version__} answers at {context.socket}, pid {report.pid}, up {report.uptime_s:.0f} s"
        yield Finding("ok", message)
    if context.moves_to:
        message = f"walrusd moves to {context.moves_to} when it is restarted; until then walrusctl finds it by its lock"
        yield Finding("warning", message, "restart it, or restore the former socket in walrus.toml")
    config = context.config
    known = () if isinstance(config, Exception) else config.warnings
    for warning in report.warnings:
        if warning not in known and "No model provider" not in warning:  # other checks report those
            yield Finding("warning", warning)


def _check_unresponsive(context: DoctorContext, owner: LockOwner | None) -> Finding:
    socket = context.socket
    if owner and owner.socket not in ("", socket):
        message = f"walrusd (pid {owner.pid}) listens on {owner.socket}, not on {socket}"
        return Finding("error", message, f"reach it with --socket {owner.socket} or WALRUS_SOCKET")
    if owner:
        message = f"walrusd (pid {owner.pid}) runs on the home, but does not answer at {socket}"
        hint = f"it may be starting or stopping: try again; otherwise see its log, then `kill {owner.pid}`"
        return Finding("error", message, hint)
    if context.unreachable:
        return Finding("error", context.unreachable, "find the process that has that socket with `ss -xlp`")
    if _is_socket(socket):
        message = f"{NOT_RUNNING}; the socket {socket} is left over from a killed walrusd"
        return Finding("warning", message, f"{_START_HINT}; it replaces the socket")
    if os.path.lexists(socket):
        return Finding(
            "error", f"{socket} exists but is not a socket", "move it away, so that walrusd can listen there"
        )
    return Finding("warning", NOT_RUNNING, _START_HINT)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False
