"""Is walrusd there? Its socket, its lock, and what it says of itself."""

import os
import stat
from collections.abc import Iterator
from importlib.metadata import version

from walrus_protocol import wire
from walrus_protocol.client import Client, RequestFailed
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DaemonReport, DoctorContext
from walrusctl.lock_owner import LockOwner, find_lock_owner

ANSWER_TIMEOUT_S = 2.0
"""For one answer; one that is well gives it in milliseconds."""
NOT_RUNNING = "walrusd is not running"
_START_HINT = "start it with `walrusd`, or `systemctl --user start walrusd` where it is installed as a service"


def query_daemon(socket: str) -> DaemonReport:
    """What the walrusd behind a socket says. Raises Unreachable, RequestFailed and TimedOut."""
    with Client(socket, ANSWER_TIMEOUT_S) as client:
        hello = client.call("daemon.hello", {"client": "walrusctl doctor", "protocol": wire.PROTOCOL})
        daemon = DaemonReport(hello["pid"], hello["version"], hello["home"], hello["uptime_s"])
        try:
            status, verdict = client.call("daemon.status"), client.call("config.check")
        except RequestFailed as refused:
            if refused.kind == "from_tool":  # a doctor called by a tool is told no more than that
                return daemon
            raise
    return daemon._replace(warnings=tuple(status["warnings"]), start_error="" if verdict["ok"] else verdict["message"])


def check_daemon(context: DoctorContext) -> Iterator[Check]:
    if daemon := context.daemon:
        yield from _check_running(context, daemon)
    elif context.socket:
        yield _check_unresponsive(context, find_lock_owner(context.paths.lock))
    else:
        hint = "choose a shorter one with --socket, WALRUS_SOCKET or [daemon] socket, or a home nearer the root"
        yield Check("daemon", "broken", "the path of the socket is too long for the system", hint)


def _check_running(context: DoctorContext, report: DaemonReport) -> Iterator[Check]:
    ours = version("walrusd")
    if os.path.realpath(report.home) != os.path.realpath(context.home):
        message = f"the walrusd at {context.socket} (pid {report.pid}) is that of another home, {report.home}"
        yield Check("daemon", "broken", message, "name this home's own socket, or that --home")
    elif report.version != ours:
        message = f"walrusd (pid {report.pid}) is version {report.version}, this walrusctl is {ours}"
        yield Check("daemon", "warning", message, "restart walrusd, or call the walrusctl beside it")
    else:
        message = f"walrusd {ours} answers at {context.socket}, pid {report.pid}, up {report.uptime_s:.0f} s"
        yield Check("daemon", "fine", message)
    if context.moves_to:
        message = f"walrusd moves to {context.moves_to} when it is restarted; until then walrusctl finds it by its lock"
        yield Check("daemon", "warning", message, "restart it, or take the other socket out of walrus.toml again")
    config = context.config
    known = () if isinstance(config, Exception) else config.warnings
    for warning in report.warnings:
        if warning not in known and "No model provider" not in warning:  # those are told where they belong
            yield Check("daemon", "warning", warning)


def _check_unresponsive(context: DoctorContext, owner: LockOwner | None) -> Check:
    socket = context.socket
    if owner and owner.socket not in ("", socket):
        message = f"walrusd (pid {owner.pid}) listens on {owner.socket}, not on {socket}"
        return Check("daemon", "broken", message, f"--socket {owner.socket}, or WALRUS_SOCKET, finds it")
    if owner:
        message = f"walrusd (pid {owner.pid}) has the home, and does not answer at {socket}"
        hint = f"it may be starting or stopping: look again; if it stays so, its log may tell why, and kill {owner.pid}"
        return Check("daemon", "broken", message, hint)
    if context.unreachable:
        return Check("daemon", "broken", context.unreachable, "see who has that socket: `ss -xlp` tells")
    if _is_socket(socket):
        message = f"{NOT_RUNNING}; the socket {socket} was left behind by one that was killed"
        return Check("daemon", "warning", message, f"{_START_HINT}: it takes the socket over")
    if os.path.lexists(socket):
        return Check("daemon", "broken", f"{socket} is there and is no socket", "move it away: walrusd cannot listen")
    return Check("daemon", "warning", NOT_RUNNING, _START_HINT)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False
