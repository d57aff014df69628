"""The whole examination: the looks in the order in which they are told, side by side, and all within a few seconds."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrus_protocol.client import RequestFailed, TimedOut, Unreachable
from walrusctl.doctor.check import Check
from walrusctl.doctor.configuration import check_configuration, read_config
from walrusctl.doctor.context import CheckFn, DoctorContext
from walrusctl.doctor.daemon import check_daemon, query_daemon
from walrusctl.doctor.database import check_database
from walrusctl.doctor.event_log import check_event_log
from walrusctl.doctor.home import check_files, check_home
from walrusctl.doctor.machine import check_clock, check_disk, check_limits
from walrusctl.doctor.providers import collect_secrets, provider_checks
from walrusctl.doctor.service import check_service
from walrusctl.doctor.storage_usage import check_storage_usage
from walrusctl.doctor.tools import check_programs, check_runtime_folder, check_sandbox
from walrusctl.lock_owner import find_lock_owner

T = TypeVar("T")

QUERY_TIMEOUT_S = 4.0
"""For all that is asked of the daemon, before the looks begin."""
CHECKS_TIMEOUT_S = 5.5
"""For all looks, side by side. With the daemon's share a doctor takes ten seconds at most."""
MASK = "***"

HOME_CHECKS: Mapping[str, CheckFn] = {
    "files": check_files,
    "configuration": check_configuration,
    "daemon": check_daemon,
}
MACHINE_CHECKS: Mapping[str, CheckFn] = {
    "disk": check_disk,
    "clock": check_clock,
    "limits": check_limits,
    "programs": check_programs,
    "sandbox": check_sandbox,
    "runtime folder": check_runtime_folder,
    "service": check_service,
}


def run_checks(home: str, socket: str | None, environ: Mapping[str, str]) -> list[Check]:
    """What is well with a home and with what is around it, and what is not. Changes nothing, and names no secret."""
    patient = _build_context(home, socket, environ)
    inside = {
        **HOME_CHECKS,
        **provider_checks(patient.config),
        "database": check_database,
        "log": check_event_log,
        "space": check_storage_usage,
    }
    looks: dict[str, CheckFn] = {"home": check_home, **(inside if patient.has_home else {}), **MACHINE_CHECKS}
    under_way: dict[str, Future[list[Check]]] = {
        name: _run_in_thread(partial(list, look(patient))) for name, look in looks.items()
    }
    wait(under_way.values(), timeout=CHECKS_TIMEOUT_S)
    secrets = collect_secrets(patient.config)
    return [_mask_secrets(check, secrets) for name, look in under_way.items() for check in _collect_checks(name, look)]


def _build_context(home: str, socket: str | None, environ: Mapping[str, str]) -> DoctorContext:
    at = _socket_path(home, socket, environ)
    answer = _run_in_thread(lambda: query_daemon(at)) if at else None
    patient = DoctorContext(home, environ, at, read_config(home))
    if not answer:
        return patient
    try:
        return patient._replace(daemon=answer.result(QUERY_TIMEOUT_S))
    except Unreachable as error:
        if not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            return patient._replace(unreachable=error.message)
        return patient if socket or environ.get("WALRUS_SOCKET") else _retry_socket_of_lock(patient)
    except (TimedOut, TimeoutError):
        return patient._replace(unreachable=f"what listens at {at} does not answer")
    except RequestFailed as error:
        return patient._replace(unreachable=f"what listens at {at} answers that {error.message}")


def _retry_socket_of_lock(context: DoctorContext) -> DoctorContext:
    """By the lock of the home, as every command finds a walrusd whose walrus.toml names another socket by now."""
    holder = find_lock_owner(context.paths.lock)
    if not holder or holder.socket in ("", context.socket):
        return context
    try:
        daemon = _run_in_thread(lambda: query_daemon(holder.socket)).result(QUERY_TIMEOUT_S)
    except (Unreachable, TimedOut, TimeoutError, RequestFailed):
        return context
    return context._replace(socket=holder.socket, daemon=daemon, moves_to=context.socket)


def _socket_path(home: str, flag: str | None, environ: Mapping[str, str]) -> str:
    try:
        return paths.socket_path(flag, environ, home, configured=paths.read_configured_socket(home))
    except ConfigError:
        return ""


def _run_in_thread(work: Callable[[], T]) -> "Future[T]":
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


def _collect_checks(name: str, future: "Future[list[Check]]") -> list[Check]:
    if not future.done():
        return [Check(name, "broken", "it could not be seen in time", "something hangs: the disk, or the network")]
    try:
        return future.result()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return [Check(name, "broken", f"{where}{error.strerror}", "ask as the user that walrusd runs as")]


def _mask_secrets(check: Check, secrets: Iterable[str]) -> Check:
    for secret in secrets:
        check = check._replace(message=check.message.replace(secret, MASK), hint=check.hint.replace(secret, MASK))
    return check
