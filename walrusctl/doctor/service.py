"""Doctor check of the systemd service: units, state, and whether it runs without a login."""

import os
from collections.abc import Iterator

import click

from walrusctl import systemd_units
from walrusctl.context import CliContext
from walrusctl.doctor.check import Finding
from walrusctl.doctor.context import DoctorContext
from walrusctl.service_plan import plan_service
from walrusctl.systemctl import SystemctlFailed, UserSystemd, find_user_systemd, hint_without_systemd, is_lingering

_INSTALL_COMMAND = "`walrusctl service install`"
_UNIT_FINDINGS: dict[str, tuple[str, str]] = {
    "outdated": ("does not match this walrusd, home and configuration", f"{_INSTALL_COMMAND} rewrites it"),
    "edited": (
        "was edited by hand",
        f"move your changes to `systemctl --user edit`; then {_INSTALL_COMMAND} --force rewrites it",
    ),
    "foreign": ("was not written by walrusctl", f"{_INSTALL_COMMAND} --force replaces it"),
    "absent": ("is missing", f"{_INSTALL_COMMAND} writes it"),
}


def check_service(context: DoctorContext) -> Iterator[Finding]:
    folder = systemd_units.unit_folder(context.environ)
    if not any(os.path.lexists(os.path.join(folder, name)) for name in systemd_units.NAMES):
        yield Finding("ok", "not installed", f"with {_INSTALL_COMMAND} systemd starts and watches walrusd")
        return
    if other := systemd_units.find_other_home(folder, context.home):
        hint = "a user can have only one service; start walrusd by hand for this home"
        yield Finding("ok", f"not installed: the service is for another home, {other}", hint)
        return
    systemd = find_user_systemd(context.environ)
    findings = [*_check_units(context, folder, systemd), *_check_state(systemd)]
    if is_lingering(context.environ) is False:
        message = "it starts when you log in and stops when you log out"
        findings.append(Finding("warning", message, "with `loginctl enable-linger` it runs without a login"))
    yield from findings or [Finding("ok", "installed, enabled and running")]


def _check_units(context: DoctorContext, folder: str, systemd: UserSystemd | str) -> Iterator[Finding]:
    options = CliContext()
    options.home, options.socket = context.home, context.socket
    try:
        wanted = systemd_units.render_units(plan_service(options, systemd).installation)
    except click.UsageError as error:
        yield Finding("warning", error.message, "install walrusd and walrusctl in the same environment")
        return
    for name in systemd_units.NAMES:
        path = os.path.join(folder, name)
        if (state := systemd_units.read_state(path, wanted[name])) != "current":
            problem, hint = _UNIT_FINDINGS[state]
            yield Finding("warning", f"{path} {problem}", hint)


def _check_state(systemd: UserSystemd | str) -> Iterator[Finding]:
    if isinstance(systemd, str):
        yield Finding("warning", f"installed, but {systemd}", hint_without_systemd(systemd))
        return
    try:
        service = systemd.read_properties(systemd_units.SERVICE, "ActiveState", "UnitFileState", "Result")
        socket = systemd.read_properties(systemd_units.SOCKET, "UnitFileState")
    except SystemctlFailed as error:
        yield Finding("warning", str(error), error.hint)
        return
    if "enabled" not in (service.get("UnitFileState"), socket.get("UnitFileState")):
        hint = f"systemctl --user enable {' '.join(systemd_units.NAMES)}"
        yield Finding("warning", "installed, but not enabled: it does not start at login", hint)
    match service.get("ActiveState"):
        case "failed":
            message = f"it has failed ({service.get('Result', 'for an unknown reason')})"
            yield Finding("error", message, "see `walrusctl logs` for the reason; fix it and start it again")
        case "inactive":
            yield Finding("warning", "it does not run", f"systemctl --user start {systemd_units.SERVICE}")
        case _:
            pass
