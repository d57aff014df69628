"""walrusd as a service: is it installed, as this installation would, enabled, well, and does it outlive a login?"""

import os
from collections.abc import Iterator

import click

from walrusctl import units
from walrusctl.doctor.check import Check
from walrusctl.doctor.patient import Patient
from walrusctl.installation import found
from walrusctl.invocation import Invocation
from walrusctl.systemctl import Manager, ManagerFailed, find_manager, lingers, without

_AGAIN = "`walrusctl service install`"
_TOLD: dict[str, tuple[str, str]] = {
    "outdated": ("is not as this walrusd, home and configuration need it", f"{_AGAIN} writes it anew"),
    "edited": ("was edited by hand", f"{_AGAIN} --force writes it anew; `systemctl --user edit` keeps changes apart"),
    "foreign": ("was not written by walrusctl", f"{_AGAIN} --force replaces it"),
    "absent": ("is missing", f"{_AGAIN} writes it"),
}


def look_at_service(patient: Patient) -> Iterator[Check]:
    folder = units.folder(patient.environ)
    if not any(os.path.lexists(os.path.join(folder, name)) for name in units.NAMES):
        yield Check("service", "fine", "not installed", f"{_AGAIN} has systemd start and watch walrusd")
        return
    if theirs := units.other_home(folder, patient.home):
        hint = "a user has one service: for this home, start walrusd by hand"
        yield Check("service", "fine", f"not installed: the units are those of another home, {theirs}", hint)
        return
    manager = find_manager(patient.environ)
    findings = [*_files(patient, folder, manager), *_state(manager)]
    if lingers(patient.environ) is False:
        message = "it starts when you log in, and ends when you log out"
        findings.append(Check("service", "warning", message, "`loginctl enable-linger` lets it run without you"))
    yield from findings or [Check("service", "fine", "installed, enabled, and runs")]


def _files(patient: Patient, folder: str, manager: Manager | str) -> Iterator[Check]:
    asked = Invocation()
    asked.home, asked.socket = patient.home, patient.socket
    try:
        wanted = units.units(found(asked, manager).installation)
    except click.UsageError as error:
        yield Check("service", "warning", error.message, "install walrusd and walrusctl side by side")
        return
    for name in units.NAMES:
        path = os.path.join(folder, name)
        if (state := units.state_of(path, wanted[name])) != "current":
            what, hint = _TOLD[state]
            yield Check("service", "warning", f"{path} {what}", hint)


def _state(manager: Manager | str) -> Iterator[Check]:
    if isinstance(manager, str):
        yield Check("service", "warning", f"installed, but {manager}", without(manager))
        return
    try:
        now = manager.properties(units.SERVICE, "ActiveState", "UnitFileState", "Result")
        enabled = manager.properties(units.SOCKET, "UnitFileState")
    except ManagerFailed as failed:
        yield Check("service", "warning", str(failed), failed.hint)
        return
    if "enabled" not in (now.get("UnitFileState"), enabled.get("UnitFileState")):
        hint = f"systemctl --user enable {' '.join(units.NAMES)}"
        yield Check("service", "warning", "installed, but it will not start by itself", hint)
    match now.get("ActiveState"):
        case "failed":
            message = f"it has failed ({now.get('Result', 'for no known reason')})"
            yield Check("service", "broken", message, "`walrusctl logs` tells why; mend that, then start it again")
        case "inactive":
            yield Check("service", "warning", "it does not run", f"systemctl --user start {units.SERVICE}")
        case _:
            pass
