"""walrusctl service: walrusd as a service of the user's systemd, where there is one."""

import errno
import os
import shlex
from collections.abc import Mapping
from typing import NoReturn

import click

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrus_config.scaffold import scaffold
from walrus_protocol import wire
from walrusctl import systemd_units
from walrusctl.click_base import LazyGroup, common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.formatting import format_fields
from walrusctl.lock_owner import find_lock_owner
from walrusctl.output import print_answer, print_error, print_json
from walrusctl.service_plan import plan_service, works_only_in_this_shell
from walrusctl.service_state import ServiceState, read_service_state
from walrusctl.systemctl import SystemctlFailed, UserSystemd, find_user_systemd, hint_without_systemd, is_lingering

HERE = "walrusctl.commands.service"
JOB_TIMEOUT_S = 120.0
"""For a start that migrates and a stop that waits for turns; --timeout says otherwise."""
BOTH_UNITS = " ".join(systemd_units.NAMES)
ENABLE_LINGER = "loginctl enable-linger"
_WRITE_HINT = "let your own user write there"
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
@pass_cli_context
def install(ctx: CliContext, *, force: bool) -> None:
    """Write the units for this walrusd and this home, enable and start them.

    Makes the home first, as `walrusd --init` does. Where no systemd runs for you, says what to type where one does.
    """
    home, folder = ctx.home_path(), systemd_units.unit_folder(os.environ)
    if not force:
        _require_own_home(ctx, folder, home, "takes them over for this home")
    made = _make_home(ctx, home)
    manager = find_user_systemd(os.environ)
    installation, refused = plan_service(ctx, manager)
    if refused:
        _print_config_error(home, refused)
        if not force:
            _exit_bad_config(ctx, refused)
    wanted = systemd_units.render_units(installation)
    states = systemd_units.read_states(folder, home, wanted)
    if not force:
        _require_unmodified(ctx, folder, states, ("edited", "foreign"))
    written = _write_units(ctx, folder, {name: wanted[name] for name, state in states.items() if state != "current"})
    pid, todo = _start_service(ctx, home, manager, changed=bool(written))
    linger = is_lingering(os.environ)
    todo += [] if linger else [ENABLE_LINGER]
    if ctx.json:
        report = {"made": made, "written": written, "pid": pid, "lingers": linger, "todo": todo}
        print_json({"home": home, "socket": installation.socket, **report})
        return
    for path in [*made, *written]:
        print_answer(f"{'made' if os.path.isdir(path) else 'wrote'} {path}")
    if pid:
        print_answer(f"walrusd runs as a service, pid {pid}")
    if not linger:
        print_error("it starts when you log in and ends when you log out, unless you let it linger")
    for command in todo:
        print_answer(f"to do: {command}")


def _write_units(ctx: CliContext, folder: str, texts: Mapping[str, str]) -> list[str]:
    try:
        return [systemd_units.write_unit(folder, name, text) for name, text in texts.items()]
    except OSError as error:
        _exit_with_error(ctx, f"{error.filename}: {error.strerror}", _HINTS.get(error.errno or 0, _WRITE_HINT))


def _start_service(
    ctx: CliContext, home: str, systemd: UserSystemd | str, *, changed: bool
) -> tuple[int | None, list[str]]:
    """Enable and start it; the pid of the service then, and what a person has still to type."""
    enable = f"systemctl --user enable --now {BOTH_UNITS}"
    holder = find_lock_owner(paths.home_paths(home).lock)
    try:
        if isinstance(systemd, str):
            pid = None
            print_error(f"{systemd}: nothing is started", hint_without_systemd(systemd))
        else:
            systemd.run("daemon-reload")
            systemd.run("enable", *systemd_units.NAMES)
            pid = _main_pid(systemd)
        if pid:
            return pid, [f"systemctl --user restart {BOTH_UNITS}"] if changed else []
        if holder:
            print_error(f"walrusd runs on {home} already (pid {holder.pid}), and not as this service")
            return None, [f"kill {holder.pid}", enable]
        if isinstance(systemd, str):
            return None, ["systemctl --user daemon-reload", enable]
        # What failed too often is tried all the same: it may have been mended.
        systemd.run("reset-failed", *systemd_units.NAMES)
        systemd.run("start", *systemd_units.NAMES, timeout_s=ctx.timeout or JOB_TIMEOUT_S)
        return _main_pid(systemd), []
    except SystemctlFailed as failed:
        _exit_with_error(ctx, str(failed), failed.hint)


@click.command()
@click.option("--force", is_flag=True, help="Remove units that were edited or serve another home, too.")
@common_options
@pass_cli_context
def uninstall(ctx: CliContext, *, force: bool) -> None:
    """Stop the service and remove its units. The home, and all that was said, stays."""
    home, folder = ctx.home_path(), systemd_units.unit_folder(os.environ)
    states = systemd_units.read_states(folder, home, {})
    if not force:
        _require_own_home(ctx, folder, home, "removes them all the same")
        _require_unmodified(ctx, folder, states, ("edited",))
    ours = [name for name, state in states.items() if state not in ("absent", "foreign")]
    manager = find_user_systemd(os.environ)
    try:
        if ours and isinstance(manager, UserSystemd):
            manager.run("disable", "--now", *ours, timeout_s=ctx.timeout or JOB_TIMEOUT_S)
        removed = [systemd_units.remove_unit(folder, name) for name in ours]
        if ours and isinstance(manager, UserSystemd):
            manager.run("daemon-reload")
    except SystemctlFailed as failed:
        _exit_with_error(ctx, str(failed), failed.hint)
    except OSError as error:
        _exit_with_error(ctx, f"{error.filename}: {error.strerror}", "let your own user write there, and do it again")
    others = [name for name, state in states.items() if state == "foreign"]
    beside = [*others, *(f"{name}.d" for name in systemd_units.NAMES)]
    kept = [path for path in (*(os.path.join(folder, name) for name in beside), home) if os.path.lexists(path)]
    holder = find_lock_owner(paths.home_paths(home).lock)
    if ctx.json:
        print_json({"removed": removed, "kept": kept, "pid": holder and holder.pid})
        return
    for path in removed:
        print_answer(f"removed {path}")
    for path in kept:
        print_answer(f"kept {path}")
    if holder:
        print_error(f"walrusd still runs on {home} (pid {holder.pid})", f"kill {holder.pid} stops it")


@click.command()
@common_options
@pass_cli_context
def status(ctx: CliContext) -> None:
    """Say whether walrusd is installed as a service, and how it is: exit 0 where it runs, 4 not, 3 not installed."""
    manager = find_user_systemd(os.environ)
    home, folder = ctx.home_path(), systemd_units.unit_folder(os.environ)
    installation, refused = plan_service(ctx, manager)
    states = systemd_units.read_states(folder, home, {} if refused else systemd_units.render_units(installation))
    installed = not {"absent", "of another home"} & set(states.values())
    now = _read_state_or_exit(ctx, manager) if installed else None
    linger = is_lingering(os.environ)
    if ctx.json:
        report = {
            "installed": installed,
            "home": systemd_units.read_home(folder),
            "up_to_date": None if refused else set(states.values()) == {"current"},
            "units": states,
            "enabled": now and now.enabled,
            "active": now.active if now else "unknown",
            "sub": now and now.sub,
            "socket": now and now.socket,
            "pid": now and now.pid,
            "result": now and now.result,
            "last_end": now and now.last_exit and now.last_exit.to_json(),
            "restarts": now and now.restarts,
            "lingers": linger,
        }
        print_json(report)
    else:
        print_answer(_format_status(folder, states, now, linger=linger))
        _print_advice(ctx, manager, states, refused, now and now.pid)
    if not installed:
        raise click.exceptions.Exit(wire.EXIT_NOT_FOUND)
    if not now or now.active != "active":
        raise click.exceptions.Exit(wire.EXIT_UNREACHABLE)


def _format_status(
    folder: str,
    states: Mapping[str, systemd_units.UnitState],
    service_state: ServiceState | None,
    *,
    linger: bool | None,
) -> str:
    lie = [(name, f"{state}, {os.path.join(folder, name)}") for name, state in states.items()]
    stands = (
        [
            ("enabled", service_state.enabled),
            ("state", service_state.state),
            ("socket", service_state.socket),
            ("pid", service_state.pid),
            ("last end", service_state.exit_reason),
            ("restarts", service_state.restarts),
        ]
        if service_state
        else []
    )
    return format_fields([*lie, *stands, ("lingers", linger)])


def _print_advice(
    ctx: CliContext,
    systemd: UserSystemd | str,
    states: Mapping[str, systemd_units.UnitState],
    config_error: ConfigError | None,
    pid: int | None,
) -> None:
    """What a person should know or do, beside the state."""
    home, folder = ctx.home_path(), systemd_units.unit_folder(os.environ)
    if isinstance(systemd, str):
        print_error(systemd, hint_without_systemd(systemd))
    if theirs := systemd_units.find_other_home(folder, home):
        print_error(
            _other_home_message(theirs), f"`walrusctl --home {shlex.quote(theirs)} service status` tells how it is"
        )
    elif "absent" in states.values():
        print_error("it is not installed", "`walrusctl service install` does that")
    elif "outdated" in states.values():
        print_error("the units are not those of this walrusd, home and configuration", "`walrusctl service install`")
    elif config_error:
        print_error(f"it could not start: {config_error}")
    holder = find_lock_owner(paths.home_paths(home).lock)
    if holder and holder.pid != pid:
        print_error(f"walrusd runs on this home (pid {holder.pid}), and not as this service")


def _make_home(ctx: CliContext, home: str) -> list[str]:
    """What `walrusd --init` makes, where it is missing."""
    try:
        return [*([home] if paths.prepare_home(home) else []), *scaffold(home)]
    except ConfigError as error:
        print_error(str(error))
        _exit_bad_config(ctx, error)


def _print_config_error(home: str, config_error: ConfigError) -> None:
    print_error(str(config_error))
    if works_only_in_this_shell(home):
        hint = f"write NAME=value into {home}/environment, and chmod 600 it"
        print_error("what your shell exports does not reach a service", hint)


def _exit_bad_config(ctx: CliContext, config_error: ConfigError) -> NoReturn:
    """A service that could not start is not installed."""
    if ctx.json:
        print_json({"ok": False, "problems": [problem._asdict() for problem in config_error.problems]})
    raise click.exceptions.Exit(wire.EXIT_USAGE)


def _other_home_message(home: str) -> str:
    return f"these units are those of {home}"


def _require_own_home(ctx: CliContext, folder: str, home: str, force_effect: str) -> None:
    """A user has one service: what is done to it for a home is not done to another's in silence."""
    if theirs := systemd_units.find_other_home(folder, home):
        there = f"`walrusctl --home {shlex.quote(theirs)} service status` tells how that one is"
        _exit_with_error(ctx, _other_home_message(theirs), f"{there}; --force {force_effect}")


def _require_unmodified(
    ctx: CliContext,
    folder: str,
    states: Mapping[str, systemd_units.UnitState],
    protected: tuple[systemd_units.UnitState, ...],
) -> None:
    """What a hand has written is not lost in silence."""
    for name, state in states.items():
        if state in protected:
            what = "was edited by hand" if state == "edited" else "was not written by walrusctl"
            hint = f"`systemctl --user edit {name}` keeps changes apart from it; then --force replaces or removes it"
            _exit_with_error(ctx, f"{os.path.join(folder, name)} {what}", hint)


def _read_state_or_exit(ctx: CliContext, systemd: UserSystemd | str) -> ServiceState | None:
    """How systemd has the service; None where none runs."""
    try:
        return None if isinstance(systemd, str) else read_service_state(systemd)
    except SystemctlFailed as failed:
        _exit_with_error(ctx, str(failed), failed.hint)


def _main_pid(systemd: UserSystemd) -> int | None:
    return int(systemd.read_properties(systemd_units.SERVICE, "MainPID").get("MainPID", "0")) or None


def _exit_with_error(ctx: CliContext, message: str, hint: str) -> NoReturn:
    print_error(message, hint)
    if ctx.json:
        print_json({"error": {"message": message, "hint": hint}})
    raise click.exceptions.Exit(wire.EXIT_INTERNAL)
