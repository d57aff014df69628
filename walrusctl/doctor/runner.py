"""Runs all checks of `walrusctl doctor` in parallel threads, within ten seconds."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrus_protocol.client import RequestFailed, TimedOut, Unreachable
from walrusctl.doctor.check import Finding
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
"""Seconds for all requests to walrusd, before the checks begin."""
CHECKS_TIMEOUT_S = 5.5
"""Seconds for all checks, which run in parallel; with the requests, doctor takes ten seconds at most."""
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


def run_checks(home: str, socket: str | None, environ: Mapping[str, str]) -> list[tuple[str, Finding]]:
    """Returns the findings about a home and its machine, each with its check's name. Changes nothing; masks secrets."""
    context = _build_context(home, socket, environ)
    home_checks = {
        **HOME_CHECKS,
        **provider_checks(context.config),
        "database": check_database,
        "log": check_event_log,
        "space": check_storage_usage,
    }
    checks: dict[str, CheckFn] = {"home": check_home, **(home_checks if context.has_home else {}), **MACHINE_CHECKS}
    futures: dict[str, Future[list[Finding]]] = {
        name: _run_in_thread(partial(list, check(context))) for name, check in checks.items()
    }
    wait(futures.values(), timeout=CHECKS_TIMEOUT_S)
    secrets = collect_secrets(context.config)
    return [(name, _mask_secrets(found, secrets)) for name, future in futures.items() for found in _collect(future)]


def _build_context(home: str, socket: str | None, environ: Mapping[str, str]) -> DoctorContext:
    path = _socket_path(home, socket, environ)
    report = _run_in_thread(lambda: query_daemon(path)) if path else None
    context = DoctorContext(home, environ, path, read_config(home))
    if not report:
        return context
    try:
        return context._replace(daemon=report.result(QUERY_TIMEOUT_S))
    except Unreachable as error:
        if not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            return context._replace(unreachable=error.message)
        return context if socket or environ.get("WALRUS_SOCKET") else _retry_socket_of_lock(context)
    except (TimedOut, TimeoutError):
        return context._replace(unreachable=f"the process that listens at {path} does not answer")
    except RequestFailed as error:
        return context._replace(unreachable=f"the process that listens at {path} returns an error: {error.message}")


def _retry_socket_of_lock(context: DoctorContext) -> DoctorContext:
    """Tries the socket in the home's lock file, where walrusd listens if walrus.toml was changed since."""
    owner = find_lock_owner(context.paths.lock)
    if not owner or owner.socket in ("", context.socket):
        return context
    try:
        daemon = _run_in_thread(lambda: query_daemon(owner.socket)).result(QUERY_TIMEOUT_S)
    except (Unreachable, TimedOut, TimeoutError, RequestFailed):
        return context
    return context._replace(socket=owner.socket, daemon=daemon, moves_to=context.socket)


def _socket_path(home: str, flag: str | None, environ: Mapping[str, str]) -> str:
    try:
        return paths.socket_path(flag, environ, home, configured=paths.read_configured_socket(home))
    except ConfigError:
        return ""


def _run_in_thread(work: Callable[[], T]) -> "Future[T]":
    """Runs the work in a daemon thread, for which the end of the program does not wait.

    A host name may take a minute to resolve, and a file system that hangs blocks without end.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: ASYNC103, BLE001 - a thread, not a task; raised by result()
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _collect(future: "Future[list[Finding]]") -> list[Finding]:
    if not future.done():
        return [Finding("error", "the check did not finish in time", "check whether the disk or the network hangs")]
    try:
        return future.result()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return [Finding("error", f"{where}{error.strerror}", "run doctor as the user of walrusd")]


def _mask_secrets(finding: Finding, secrets: Iterable[str]) -> Finding:
    for secret in secrets:
        message, hint = (text.replace(secret, MASK) for text in finding[1:])
        finding = Finding(finding.status, message, hint)
    return finding
