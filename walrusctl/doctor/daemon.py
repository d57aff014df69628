"""Is walrusd there? Its socket, its lock, and what it says of itself."""

import os
import stat
from collections.abc import Iterator
from importlib.metadata import version

from walrus_protocol import wire
from walrus_protocol.client import Client, RequestFailed
from walrusctl.doctor.check import Check
from walrusctl.doctor.patient import Daemon, Patient
from walrusctl.holder import Holder, holder_of

ANSWER_S = 2.0
"""For one answer; one that is well gives it in milliseconds."""
NOT_RUNNING = "walrusd is not running"
_START = "start it with `walrusd`, or `systemctl --user start walrusd` where it is installed as a service"


def ask(socket: str) -> Daemon:
    """What the walrusd behind a socket says. Raises Unreachable, RequestFailed and TimedOut."""
    with Client(socket, ANSWER_S) as client:
        hello = client.call("daemon.hello", {"client": "walrusctl doctor", "protocol": wire.PROTOCOL})
        daemon = Daemon(hello["pid"], hello["version"], hello["home"], hello["uptime_s"])
        try:
            status, verdict = client.call("daemon.status"), client.call("config.check")
        except RequestFailed as refused:
            if refused.kind == "from_tool":  # a doctor called by a tool is told no more than that
                return daemon
            raise
    return daemon._replace(warnings=tuple(status["warnings"]), refusal="" if verdict["ok"] else verdict["message"])


def look_at_daemon(patient: Patient) -> Iterator[Check]:
    if daemon := patient.daemon:
        yield from _running(patient, daemon)
    elif patient.socket:
        yield _silent(patient, holder_of(patient.paths.lock))
    else:
        hint = "choose a shorter one with --socket, WALRUS_SOCKET or [daemon] socket, or a home nearer the root"
        yield Check("daemon", "broken", "the path of the socket is too long for the system", hint)


def _running(patient: Patient, daemon: Daemon) -> Iterator[Check]:
    ours = version("walrusd")
    if os.path.realpath(daemon.home) != os.path.realpath(patient.home):
        message = f"the walrusd at {patient.socket} (pid {daemon.pid}) is that of another home, {daemon.home}"
        yield Check("daemon", "broken", message, "name this home's own socket, or that --home")
    elif daemon.version != ours:
        message = f"walrusd (pid {daemon.pid}) is version {daemon.version}, this walrusctl is {ours}"
        yield Check("daemon", "warning", message, "restart walrusd, or call the walrusctl beside it")
    else:
        message = f"walrusd {ours} answers at {patient.socket}, pid {daemon.pid}, up {daemon.uptime_s:.0f} s"
        yield Check("daemon", "fine", message)
    if patient.moves_to:
        message = f"walrusd moves to {patient.moves_to} when it is restarted; until then walrusctl finds it by its lock"
        yield Check("daemon", "warning", message, "restart it, or take the other socket out of walrus.toml again")
    config = patient.config
    known = () if isinstance(config, Exception) else config.warnings
    for warning in daemon.warnings:
        if warning not in known and "No model provider" not in warning:  # those are told where they belong
            yield Check("daemon", "warning", warning)


def _silent(patient: Patient, holder: Holder | None) -> Check:
    socket = patient.socket
    if holder and holder.socket not in ("", socket):
        message = f"walrusd (pid {holder.pid}) listens on {holder.socket}, not on {socket}"
        return Check("daemon", "broken", message, f"--socket {holder.socket}, or WALRUS_SOCKET, finds it")
    if holder:
        message = f"walrusd (pid {holder.pid}) has the home, and does not answer at {socket}"
        hint = (
            f"it may be starting or stopping: look again; if it stays so, its log may tell why, and kill {holder.pid}"
        )
        return Check("daemon", "broken", message, hint)
    if patient.unreachable:
        return Check("daemon", "broken", patient.unreachable, "see who has that socket: `ss -xlp` tells")
    if _is_socket(socket):
        message = f"{NOT_RUNNING}; the socket {socket} was left behind by one that was killed"
        return Check("daemon", "warning", message, f"{_START}: it takes the socket over")
    if os.path.lexists(socket):
        return Check("daemon", "broken", f"{socket} is there and is no socket", "move it away: walrusd cannot listen")
    return Check("daemon", "warning", NOT_RUNNING, _START)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False
