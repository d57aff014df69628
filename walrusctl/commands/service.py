"""walrusctl service: walrusd as a service of the user's systemd, where there is one."""

import os
from collections.abc import Mapping
from typing import NoReturn

import click

from walrus_config import paths
from walrus_config.problems import ConfigError
from walrus_config.scaffold import scaffold
from walrus_protocol import wire
from walrusctl import units
from walrusctl.doctor.daemon import holder_of
from walrusctl.groups import LazyGroup, common_options
from walrusctl.installation import found, only_here
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import complain, say, say_json
from walrusctl.render import fields
from walrusctl.systemctl import Manager, ManagerFailed, find_manager, lingers

HERE = "walrusctl.commands.service"
JOB_S = 120.0
"""For a start that migrates and a stop that waits for turns; --timeout says otherwise."""
BOTH = " ".join(units.NAMES)
LINGER = "loginctl enable-linger"
_SHOWN = ("ActiveState", "SubState", "UnitFileState", "MainPID", "Result", "ExecMainStatus", "NRestarts")
_ENDS = {
    "75": "another walrusd has this home",
    "78": "the configuration cannot be used; `walrusctl logs` shows what was said of it",
}


@click.command(
    cls=LazyGroup,
    lazy={"install": f"{HERE}:install", "uninstall": f"{HERE}:uninstall", "status": f"{HERE}:status"},
)
@common_options
def service() -> None:
    """walrusd as a service: started with your login, watched, started again when it fails."""


@click.command()
@click.option(
    "--force", is_flag=True, help="Replace units that are not ours, and take a configuration that is refused."
)
@common_options
@pass_invocation
def install(asked: Invocation, *, force: bool) -> None:
    """Write the units for this walrusd and this home, enable and start them.

    Makes the home first, as `walrusd --init` does. Where no systemd runs for you, says what to type where one does.
    """
    home = asked.home_path()
    made = _make_home(asked, home)
    manager = find_manager(os.environ)
    installation, refused = found(asked, manager)
    if refused:
        _tell(home, refused)
        if not force:
            _refuse(asked, refused)
    wanted, folder = units.units(installation), units.folder(os.environ)
    states = _states(folder, wanted)
    if not force:
        _refuse_to_touch(asked, folder, states, ("edited", "foreign"))
    try:
        written = [units.write(folder, name, wanted[name]) for name, state in states.items() if state != "current"]
    except OSError as error:
        _fail(asked, f"{error.filename}: {error.strerror}", "make room, or let your own user write there")
    pid, todo = _start(asked, home, manager, changed=bool(written))
    linger = lingers(os.environ)
    todo += [LINGER] if linger is False else []
    if asked.json:
        report = {"made": made, "written": written, "pid": pid, "lingers": linger, "todo": todo}
        say_json({"home": home, "socket": installation.socket, **report})
        return
    for path in [*made, *written]:
        say(f"wrote {path}")
    if pid:
        say(f"walrusd runs as a service, pid {pid}")
    if linger is False:
        complain("it starts when you log in and ends when you log out, unless you let it linger")
    for command in todo:
        say(f"to do: {command}")


def _start(asked: Invocation, home: str, manager: Manager | str, *, changed: bool) -> tuple[int | None, list[str]]:
    """Enable and start it; the pid of the service then, and what a person has still to type."""
    enable = f"systemctl --user enable --now {BOTH}"
    holder = holder_of(paths.paths(home).lock)
    try:
        if isinstance(manager, str):
            pid = None
            complain(f"{manager}: nothing is started")
        else:
            manager.tell("daemon-reload")
            manager.tell("enable", *units.NAMES)
            pid = _main_pid(manager)
        if pid:
            return pid, [f"systemctl --user restart {BOTH}"] if changed else []
        if holder:
            complain(f"walrusd runs on {home} already (pid {holder.pid}), and not as this service")
            return None, [f"kill {holder.pid}", enable]
        if isinstance(manager, str):
            return None, ["systemctl --user daemon-reload", enable]
        # What failed too often is tried all the same: it may have been mended.
        manager.tell("reset-failed", *units.NAMES)
        manager.tell("start", *units.NAMES, within_s=asked.timeout or JOB_S)
        return _main_pid(manager), []
    except ManagerFailed as failed:
        _fail(asked, str(failed), failed.hint)


@click.command()
@click.option("--force", is_flag=True, help="Remove units that were edited, too.")
@common_options
@pass_invocation
def uninstall(asked: Invocation, *, force: bool) -> None:
    """Stop the service and remove its units. The home, and all that was said, stays."""
    home, folder = asked.home_path(), units.folder(os.environ)
    states = _states(folder, {})
    if not force:
        _refuse_to_touch(asked, folder, states, ("edited",))
    ours = [name for name, state in states.items() if state not in ("absent", "foreign")]
    manager = find_manager(os.environ)
    try:
        if ours and isinstance(manager, Manager):
            manager.tell("disable", "--now", *ours, within_s=asked.timeout or JOB_S)
        removed = [units.remove(folder, name) for name in ours]
        if ours and isinstance(manager, Manager):
            manager.tell("daemon-reload")
    except ManagerFailed as failed:
        _fail(asked, str(failed), failed.hint)
    except OSError as error:
        _fail(asked, f"{error.filename}: {error.strerror}", "let your own user write there, and do it again")
    others = [name for name, state in states.items() if state == "foreign"]
    beside = [*others, *(f"{name}.d" for name in units.NAMES)]
    kept = [path for path in (*(os.path.join(folder, name) for name in beside), home) if os.path.lexists(path)]
    holder = holder_of(paths.paths(home).lock)
    if asked.json:
        say_json({"removed": removed, "kept": kept, "pid": holder and holder.pid})
        return
    for path in removed:
        say(f"removed {path}")
    for path in kept:
        say(f"kept {path}")
    if holder:
        complain(f"walrusd still runs on {home} (pid {holder.pid})", f"kill {holder.pid} stops it")


@click.command()
@common_options
@pass_invocation
def status(asked: Invocation) -> None:
    """Say whether walrusd is installed as a service, and how it is: exit 0 where it runs, 4 not, 3 not installed."""
    manager = find_manager(os.environ)
    folder = units.folder(os.environ)
    installation, refused = found(asked, manager)
    states = _states(folder, {} if refused else units.units(installation))
    installed = "absent" not in states.values()
    now = _now(asked, manager) if installed else {}
    active, pid = now.get("ActiveState", "unknown"), int(now.get("MainPID", "0")) or None
    linger = lingers(os.environ)
    report = {
        "installed": installed,
        "up_to_date": None if refused else set(states.values()) == {"current"},
        "units": states,
        "enabled": now.get("UnitFileState"),
        "active": active,
        "sub": now.get("SubState"),
        "pid": pid,
        "result": now.get("Result"),
        "exit_status": int(now["ExecMainStatus"]) if "ExecMainStatus" in now else None,
        "restarts": int(now["NRestarts"]) if "NRestarts" in now else None,
        "lingers": linger,
    }
    if asked.json:
        say_json(report)
    else:
        say(_shown(folder, states, now, linger=linger))
        _advise(asked, manager, states, refused, pid)
    if not installed:
        raise click.exceptions.Exit(wire.EXIT_NOT_FOUND)
    if active != "active":
        raise click.exceptions.Exit(wire.EXIT_UNREACHABLE)


def _shown(folder: str, states: Mapping[str, units.State], now: Mapping[str, str], *, linger: bool | None) -> str:
    ended = now.get("ExecMainStatus", "0")
    why = _ENDS.get(ended, now.get("Result", ""))
    running = now.get("MainPID", "0") != "0"
    return fields(
        [
            *((name, f"{state}, {os.path.join(folder, name)}") for name, state in states.items()),
            ("enabled", now.get("UnitFileState")),
            ("active", f"{now['ActiveState']}, {now['SubState']}" if now else None),
            ("pid", now["MainPID"] if running else None),
            ("last end", None if running or ended == "0" else f"exit status {ended}: {why}"),
            ("restarts", now.get("NRestarts")),
            ("lingers", linger),
        ]
    )


def _advise(
    asked: Invocation,
    manager: Manager | str,
    states: Mapping[str, units.State],
    refused: ConfigError | None,
    pid: int | None,
) -> None:
    """What a person should know or do, beside the state."""
    if isinstance(manager, str):
        complain(manager)
    if "absent" in states.values():
        complain("it is not installed", "`walrusctl service install` does that")
    elif "outdated" in states.values():
        complain("the units are not those of this walrusd, home and configuration", "`walrusctl service install`")
    elif refused:
        complain(f"it could not start: {refused}")
    holder = holder_of(paths.paths(asked.home_path()).lock)
    if holder and holder.pid != pid:
        complain(f"walrusd runs on this home (pid {holder.pid}), and not as this service")


def _make_home(asked: Invocation, home: str) -> list[str]:
    """What `walrusd --init` makes, where it is missing."""
    try:
        return [*([home] if paths.prepare_home(home) else []), *scaffold(home)]
    except ConfigError as error:
        complain(str(error))
        _refuse(asked, error)


def _tell(home: str, refused: ConfigError) -> None:
    complain(str(refused))
    if only_here(home):
        hint = f"write NAME=value into {home}/environment, and chmod 600 it"
        complain("what your shell exports does not reach a service", hint)


def _refuse(asked: Invocation, refused: ConfigError) -> NoReturn:
    """A service that could not start is not installed."""
    if asked.json:
        say_json({"ok": False, "problems": [problem._asdict() for problem in refused.problems]})
    raise click.exceptions.Exit(wire.EXIT_USAGE)


def _states(folder: str, wanted: Mapping[str, str]) -> dict[str, units.State]:
    return {name: units.state_of(os.path.join(folder, name), wanted.get(name)) for name in units.NAMES}


def _refuse_to_touch(
    asked: Invocation, folder: str, states: Mapping[str, units.State], kept: tuple[units.State, ...]
) -> None:
    """What a hand has written is not lost in silence."""
    for name, state in states.items():
        if state in kept:
            what = "was edited by hand" if state == "edited" else "was not written by walrusctl"
            hint = f"`systemctl --user edit {name}` keeps changes apart from it; then --force replaces or removes it"
            _fail(asked, f"{os.path.join(folder, name)} {what}", hint)


def _now(asked: Invocation, manager: Manager | str) -> dict[str, str]:
    """How systemd has the service; empty where none runs."""
    try:
        return {} if isinstance(manager, str) else manager.properties(units.SERVICE, *_SHOWN)
    except ManagerFailed as failed:
        _fail(asked, str(failed), failed.hint)


def _main_pid(manager: Manager) -> int | None:
    return int(manager.properties(units.SERVICE, "MainPID").get("MainPID", "0")) or None


def _fail(asked: Invocation, message: str, hint: str) -> NoReturn:
    complain(message, hint)
    if asked.json:
        say_json({"error": {"message": message, "hint": hint}})
    raise click.exceptions.Exit(wire.EXIT_INTERNAL)
