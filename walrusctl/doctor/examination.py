"""The whole examination: the looks in the order in which they are told, side by side, and all within a few seconds."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

from walrus_config import paths
from walrus_config.problems import ConfigError
from walrus_protocol.client import RequestFailed, TimedOut, Unreachable
from walrusctl.doctor.check import Check
from walrusctl.doctor.configuration import look_at_configuration, read
from walrusctl.doctor.daemon import ask, look_at_daemon
from walrusctl.doctor.database import look_at_database
from walrusctl.doctor.home import look_at_files, look_at_home
from walrusctl.doctor.log import look_at_log
from walrusctl.doctor.machine import look_at_clock, look_at_disk, look_at_limits
from walrusctl.doctor.patient import Look, Patient
from walrusctl.doctor.providers import looks_at_providers, secrets_of
from walrusctl.doctor.service import look_at_service
from walrusctl.doctor.space import look_at_space
from walrusctl.doctor.tools import look_at_programs, look_at_runtime_folder, look_at_sandbox
from walrusctl.holder import holder_of

T = TypeVar("T")

ASK_S = 4.0
"""For all that is asked of the daemon, before the looks begin."""
LOOK_S = 5.5
"""For all looks, side by side. With the daemon's share a doctor takes ten seconds at most."""
STARS = "***"

OF_THE_HOME: Mapping[str, Look] = {
    "files": look_at_files,
    "configuration": look_at_configuration,
    "daemon": look_at_daemon,
}
OF_THE_MACHINE: Mapping[str, Look] = {
    "disk": look_at_disk,
    "clock": look_at_clock,
    "limits": look_at_limits,
    "programs": look_at_programs,
    "sandbox": look_at_sandbox,
    "runtime folder": look_at_runtime_folder,
    "service": look_at_service,
}


def examine(home: str, socket: str | None, environ: Mapping[str, str]) -> list[Check]:
    """What is well with a home and with what is around it, and what is not. Changes nothing, and names no secret."""
    patient = _met(home, socket, environ)
    inside = {
        **OF_THE_HOME,
        **looks_at_providers(patient.config),
        "database": look_at_database,
        "log": look_at_log,
        "space": look_at_space,
    }
    looks: dict[str, Look] = {"home": look_at_home, **(inside if patient.is_there else {}), **OF_THE_MACHINE}
    under_way: dict[str, Future[list[Check]]] = {
        name: _begun(partial(list, look(patient))) for name, look in looks.items()
    }
    wait(under_way.values(), timeout=LOOK_S)
    secrets = secrets_of(patient.config)
    return [_clean(check, secrets) for name, look in under_way.items() for check in _findings(name, look)]


def _met(home: str, socket: str | None, environ: Mapping[str, str]) -> Patient:
    at = _socket_path(home, socket, environ)
    answer = _begun(lambda: ask(at)) if at else None
    patient = Patient(home, environ, at, read(home))
    if not answer:
        return patient
    try:
        return patient._replace(daemon=answer.result(ASK_S))
    except Unreachable as error:
        if not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            return patient._replace(unreachable=error.message)
        return patient if socket or environ.get("WALRUS_SOCKET") else _met_elsewhere(patient)
    except (TimedOut, TimeoutError):
        return patient._replace(unreachable=f"what listens at {at} does not answer")
    except RequestFailed as error:
        return patient._replace(unreachable=f"what listens at {at} answers that {error.message}")


def _met_elsewhere(patient: Patient) -> Patient:
    """By the lock of the home, as every command finds a walrusd whose walrus.toml names another socket by now."""
    holder = holder_of(patient.paths.lock)
    if not holder or holder.socket in ("", patient.socket):
        return patient
    try:
        daemon = _begun(lambda: ask(holder.socket)).result(ASK_S)
    except (Unreachable, TimedOut, TimeoutError, RequestFailed):
        return patient
    return patient._replace(socket=holder.socket, daemon=daemon, moves_to=patient.socket)


def _socket_path(home: str, flag: str | None, environ: Mapping[str, str]) -> str:
    try:
        return paths.socket_path(flag, environ, home, configured=paths.configured_socket(home))
    except ConfigError:
        return ""


def _begun(work: Callable[[], T]) -> "Future[T]":
    """The work in a thread of its own, which the end of the program does not wait for: a name may take a minute to
    resolve, and a file system that hangs takes for ever.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: ASYNC103, BLE001 - a thread, not a task; raised where it is waited for
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer


def _findings(name: str, look: "Future[list[Check]]") -> list[Check]:
    if not look.done():
        return [Check(name, "broken", "it could not be seen in time", "something hangs: the disk, or the network")]
    try:
        return look.result()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return [Check(name, "broken", f"{where}{error.strerror}", "ask as the user that walrusd runs as")]


def _clean(check: Check, secrets: Iterable[str]) -> Check:
    for secret in secrets:
        check = check._replace(message=check.message.replace(secret, STARS), hint=check.hint.replace(secret, STARS))
    return check
