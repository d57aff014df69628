"""walrusd as a service: is it installed, as this installation would, enabled, well, and does it outlive a login?"""

import os
from collections.abc import Iterator

import click

from walrusctl import systemd_units
from walrusctl.context import CliContext
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DoctorContext
from walrusctl.service_plan import plan_service
from walrusctl.systemctl import SystemctlFailed, UserSystemd, find_user_systemd, hint_without_systemd, is_lingering

_INSTALL_COMMAND = "`walrusctl service install`"
_UNIT_FINDINGS: dict[str, tuple[str, str]] = {
    "outdated": ("is not as this walrusd, home and configuration need it", f"{_INSTALL_COMMAND} writes it anew"),
    "edited": (
        "was edited by hand",
        f"{_INSTALL_COMMAND} --force writes it anew; `systemctl --user edit` keeps changes apart",
    ),
    "foreign": ("was not written by walrusctl", f"{_INSTALL_COMMAND} --force replaces it"),
    "absent": ("is missing", f"{_INSTALL_COMMAND} writes it"),
}


def check_service(context: DoctorContext) -> Iterator[Check]:
    folder = systemd_units.unit_folder(context.environ)
    if not any(os.path.lexists(os.path.join(folder, name)) for name in systemd_units.NAMES):
        yield Check("service", "fine", "not installed", f"{_INSTALL_COMMAND} has systemd start and watch walrusd")
        return
    if theirs := systemd_units.find_other_home(folder, context.home):
        hint = "a user has one service: for this home, start walrusd by hand"
        yield Check("service", "fine", f"not installed: the units are those of another home, {theirs}", hint)
        return
    manager = find_user_systemd(context.environ)
    findings = [*_check_units(context, folder, manager), *_check_state(manager)]
    if is_lingering(context.environ) is False:
        message = "it starts when you log in, and ends when you log out"
        findings.append(Check("service", "warning", message, "`loginctl enable-linger` lets it run without you"))
    yield from findings or [Check("service", "fine", "installed, enabled, and runs")]


def _check_units(context: DoctorContext, folder: str, systemd: UserSystemd | str) -> Iterator[Check]:
    asked = CliContext()
    asked.home, asked.socket = context.home, context.socket
    try:
        wanted = systemd_units.render_units(plan_service(asked, systemd).installation)
    except click.UsageError as error:
        yield Check("service", "warning", error.message, "install walrusd and walrusctl side by side")
        return
    for name in systemd_units.NAMES:
        path = os.path.join(folder, name)
        if (state := systemd_units.read_state(path, wanted[name])) != "current":
            what, hint = _UNIT_FINDINGS[state]
            yield Check("service", "warning", f"{path} {what}", hint)


def _check_state(systemd: UserSystemd | str) -> Iterator[Check]:
    if isinstance(systemd, str):
        yield Check("service", "warning", f"installed, but {systemd}", hint_without_systemd(systemd))
        return
    try:
        now = systemd.read_properties(systemd_units.SERVICE, "ActiveState", "UnitFileState", "Result")
        enabled = systemd.read_properties(systemd_units.SOCKET, "UnitFileState")
    except SystemctlFailed as failed:
        yield Check("service", "warning", str(failed), failed.hint)
        return
    if "enabled" not in (now.get("UnitFileState"), enabled.get("UnitFileState")):
        hint = f"systemctl --user enable {' '.join(systemd_units.NAMES)}"
        yield Check("service", "warning", "installed, but it will not start by itself", hint)
    match now.get("ActiveState"):
        case "failed":
            message = f"it has failed ({now.get('Result', 'for no known reason')})"
            yield Check("service", "broken", message, "`walrusctl logs` tells why; mend that, then start it again")
        case "inactive":
            yield Check("service", "warning", "it does not run", f"systemctl --user start {systemd_units.SERVICE}")
        case _:
            pass
