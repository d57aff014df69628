"""walrusctl service: walrusd as a service of the user's systemd, where there is one."""

import errno
import os
import shlex
from collections.abc import Mapping
from typing import NoReturn

import click

from walrus_config import paths
from walrus_config.problems import ConfigError
from walrus_config.scaffold import scaffold
from walrus_protocol import wire
from walrusctl import units
from walrusctl.groups import LazyGroup, common_options
from walrusctl.holder import holder_of
from walrusctl.installation import found, only_here
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import complain, say, say_json
from walrusctl.render import fields
from walrusctl.standing import Standing, standing
from walrusctl.systemctl import Manager, ManagerFailed, find_manager, lingers, without

HERE = "walrusctl.commands.service"
JOB_S = 120.0
"""For a start that migrates and a stop that waits for turns; --timeout says otherwise."""
BOTH = " ".join(units.NAMES)
LINGER = "loginctl enable-linger"
_LET_WRITE = "let your own user write there"
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "that has to be a folder: does XDG_CONFIG_HOME name one?"),
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
    "--force",
    is_flag=True,
    help="Replace units that are not ours or serve another home, and take a configuration that is refused.",
)
@common_options
@pass_invocation
def install(asked: Invocation, *, force: bool) -> None:
    """Write the units for this walrusd and this home, enable and start them.

    Makes the home first, as `walrusd --init` does. Where no systemd runs for you, says what to type where one does.
    """
    home, folder = asked.home_path(), units.folder(os.environ)
    if not force:
        _refuse_another_home(asked, folder, home, "takes them over for this home")
    made = _make_home(asked, home)
    manager = find_manager(os.environ)
    installation, refused = found(asked, manager)
    if refused:
        _tell(home, refused)
        if not force:
            _refuse(asked, refused)
    wanted = units.units(installation)
    states = units.states(folder, home, wanted)
    if not force:
        _refuse_to_touch(asked, folder, states, ("edited", "foreign"))
    written = _write(asked, folder, {name: wanted[name] for name, state in states.items() if state != "current"})
    pid, todo = _start(asked, home, manager, changed=bool(written))
    linger = lingers(os.environ)
    todo += [] if linger else [LINGER]
    if asked.json:
        report = {"made": made, "written": written, "pid": pid, "lingers": linger, "todo": todo}
        say_json({"home": home, "socket": installation.socket, **report})
        return
    for path in [*made, *written]:
        say(f"{'made' if os.path.isdir(path) else 'wrote'} {path}")
    if pid:
        say(f"walrusd runs as a service, pid {pid}")
    if not linger:
        complain("it starts when you log in and ends when you log out, unless you let it linger")
    for command in todo:
        say(f"to do: {command}")


def _write(asked: Invocation, folder: str, texts: Mapping[str, str]) -> list[str]:
    try:
        return [units.write(folder, name, text) for name, text in texts.items()]
    except OSError as error:
        _fail(asked, f"{error.filename}: {error.strerror}", _HINTS.get(error.errno or 0, _LET_WRITE))


def _start(asked: Invocation, home: str, manager: Manager | str, *, changed: bool) -> tuple[int | None, list[str]]:
    """Enable and start it; the pid of the service then, and what a person has still to type."""
    enable = f"systemctl --user enable --now {BOTH}"
    holder = holder_of(paths.paths(home).lock)
    try:
        if isinstance(manager, str):
            pid = None
            complain(f"{manager}: nothing is started", without(manager))
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
@click.option("--force", is_flag=True, help="Remove units that were edited or serve another home, too.")
@common_options
@pass_invocation
def uninstall(asked: Invocation, *, force: bool) -> None:
    """Stop the service and remove its units. The home, and all that was said, stays."""
    home, folder = asked.home_path(), units.folder(os.environ)
    states = units.states(folder, home, {})
    if not force:
        _refuse_another_home(asked, folder, home, "removes them all the same")
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
    home, folder = asked.home_path(), units.folder(os.environ)
    installation, refused = found(asked, manager)
    states = units.states(folder, home, {} if refused else units.units(installation))
    installed = not {"absent", "of another home"} & set(states.values())
    now = _standing(asked, manager) if installed else None
    linger = lingers(os.environ)
    if asked.json:
        report = {
            "installed": installed,
            "home": units.home_of(folder),
            "up_to_date": None if refused else set(states.values()) == {"current"},
            "units": states,
            "enabled": now and now.enabled,
            "active": now.active if now else "unknown",
            "sub": now and now.sub,
            "socket": now and now.socket,
            "pid": now and now.pid,
            "result": now and now.result,
            "last_end": now and now.last_end and now.last_end.of_json(),
            "restarts": now and now.restarts,
            "lingers": linger,
        }
        say_json(report)
    else:
        say(_shown(folder, states, now, linger=linger))
        _advise(asked, manager, states, refused, now and now.pid)
    if not installed:
        raise click.exceptions.Exit(wire.EXIT_NOT_FOUND)
    if not now or now.active != "active":
        raise click.exceptions.Exit(wire.EXIT_UNREACHABLE)


def _shown(folder: str, states: Mapping[str, units.State], now: Standing | None, *, linger: bool | None) -> str:
    lie = [(name, f"{state}, {os.path.join(folder, name)}") for name, state in states.items()]
    stands = (
        [
            ("enabled", now.enabled),
            ("state", now.state),
            ("socket", now.socket),
            ("pid", now.pid),
            ("last end", now.why),
            ("restarts", now.restarts),
        ]
        if now
        else []
    )
    return fields([*lie, *stands, ("lingers", linger)])


def _advise(
    asked: Invocation,
    manager: Manager | str,
    states: Mapping[str, units.State],
    refused: ConfigError | None,
    pid: int | None,
) -> None:
    """What a person should know or do, beside the state."""
    home, folder = asked.home_path(), units.folder(os.environ)
    if isinstance(manager, str):
        complain(manager, without(manager))
    if theirs := units.other_home(folder, home):
        complain(_those_of(theirs), f"`walrusctl --home {shlex.quote(theirs)} service status` tells how it is")
    elif "absent" in states.values():
        complain("it is not installed", "`walrusctl service install` does that")
    elif "outdated" in states.values():
        complain("the units are not those of this walrusd, home and configuration", "`walrusctl service install`")
    elif refused:
        complain(f"it could not start: {refused}")
    holder = holder_of(paths.paths(home).lock)
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


def _those_of(home: str) -> str:
    return f"these units are those of {home}"


def _refuse_another_home(asked: Invocation, folder: str, home: str, forced: str) -> None:
    """A user has one service: what is done to it for a home is not done to another's in silence."""
    if theirs := units.other_home(folder, home):
        there = f"`walrusctl --home {shlex.quote(theirs)} service status` tells how that one is"
        _fail(asked, _those_of(theirs), f"{there}; --force {forced}")


def _refuse_to_touch(
    asked: Invocation, folder: str, states: Mapping[str, units.State], kept: tuple[units.State, ...]
) -> None:
    """What a hand has written is not lost in silence."""
    for name, state in states.items():
        if state in kept:
            what = "was edited by hand" if state == "edited" else "was not written by walrusctl"
            hint = f"`systemctl --user edit {name}` keeps changes apart from it; then --force replaces or removes it"
            _fail(asked, f"{os.path.join(folder, name)} {what}", hint)


def _standing(asked: Invocation, manager: Manager | str) -> Standing | None:
    """How systemd has the service; None where none runs."""
    try:
        return None if isinstance(manager, str) else standing(manager)
    except ManagerFailed as failed:
        _fail(asked, str(failed), failed.hint)


def _main_pid(manager: Manager) -> int | None:
    return int(manager.properties(units.SERVICE, "MainPID").get("MainPID", "0")) or None


def _fail(asked: Invocation, message: str, hint: str) -> NoReturn:
    complain(message, hint)
    if asked.json:
        say_json({"error": {"message": message, "hint": hint}})
    raise click.exceptions.Exit(wire.EXIT_INTERNAL)
