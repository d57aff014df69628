"""The commands `walrusctl service`: install, uninstall and show walrusd as a systemd user service."""

import errno
import os
import shlex
from collections.abc import Mapping

import click

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrus_config.scaffold import scaffold
from walrus_protocol import wire
from walrusctl import systemd_units
from walrusctl.click_base import command, group, lazy_commands
from walrusctl.context import CliContext, CommandFailed
from walrusctl.formatting import format_fields
from walrusctl.lock_owner import find_lock_owner
from walrusctl.output import print_answer, print_error, print_json
from walrusctl.service_plan import is_temporary, plan_service, works_only_in_this_shell
from walrusctl.service_state import ServiceState, read_service_state
from walrusctl.systemctl import UserSystemd, find_user_systemd, hint_without_systemd, is_lingering

JOB_TIMEOUT_S = 120.0
"""Seconds for a start, which may migrate, or a stop, which waits for turns; --timeout overrides it."""
BOTH_UNITS = " ".join(systemd_units.NAMES)
ENABLE_LINGER = "loginctl enable-linger"
_WRITE_HINT = "make it writable for your own user"
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "it must be a folder; check XDG_CONFIG_HOME"),
}


@group(
    "walrusctl service install",
    "walrusctl service status",
    lazy=lazy_commands("service:install", "service:uninstall", "service:status"),
)
def service() -> None:
    """Run walrusd as a systemd service of your user.

    The service starts at your login, is watched, and restarts after a failure.
    """


@command("walrusctl service install", "walrusctl --home ~/other service install --force")
@click.option(
    "--force",
    is_flag=True,
    help="Replace edited or foreign units and those of another home, and accept a configuration with errors.",
)
def install(ctx: CliContext, *, force: bool) -> None:
    """Install and start the service for this home.

    Creates the home first, as `walrusd --init` does. Then it writes the systemd units, enables and starts them. If your
    user has no running systemd, it prints the commands to run later.
    """
    home, folder = ctx.home_path(), systemd_units.unit_folder(os.environ)
    if not force:
        _require_own_home(folder, home, "replaces them by units for this home")
    made = _make_home(ctx, home)
    systemd = find_user_systemd(os.environ)
    installation, config_error = plan_service(ctx, systemd)
    if config_error:
        _print_config_error(home, config_error)
        if not force:
            ctx.exit_with_problems(config_error)
    wanted = systemd_units.render_units(installation)
    states = systemd_units.read_states(folder, home, wanted)
    if not force:
        _require_unmodified(folder, states, ("edited", "foreign"))
    written = _write_units(folder, {name: wanted[name] for name, state in states.items() if state != "current"})
    pid, todo = _start_service(ctx, home, systemd, changed=bool(written))
    linger = is_lingering(os.environ)
    todo += [] if linger else [ENABLE_LINGER]
    _warn_if_temporary(home)
    if ctx.json:
        report = {"made": made, "written": written, "pid": pid, "lingers": linger, "todo": todo}
        print_json({"home": home, "socket": installation.socket, **report})
        return
    print_answer(f"home: {home}")
    for path in [*made, *written]:
        print_answer(f"{'created' if os.path.isdir(path) else 'wrote'} {path}")
    if pid:
        print_answer(f"walrusd runs as a service, pid {pid}")
    if not linger:
        print_error("without lingering, it starts when you log in and stops when you log out")
    for step in todo:
        print_answer(f"to do: {step}")


def _warn_if_temporary(home: str) -> None:
    if is_temporary(home):
        print_error(f"the home {home} is in a temporary folder; it may be deleted at the next boot")


def _write_units(folder: str, texts: Mapping[str, str]) -> list[str]:
    try:
        return [systemd_units.write_unit(folder, name, text) for name, text in texts.items()]
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, _WRITE_HINT)
        raise CommandFailed(f"{error.filename}: {error.strerror}", hint) from None


def _start_service(
    ctx: CliContext, home: str, systemd: UserSystemd | str, *, changed: bool
) -> tuple[int | None, list[str]]:
    """Enables and starts the service; returns its pid, and the commands that the user must still run."""
    enable = f"systemctl --user enable --now {BOTH_UNITS}"
    owner = find_lock_owner(paths.home_paths(home).lock)
    if isinstance(systemd, str):
        pid = None
        print_error(f"{systemd}: walrusd was not started", hint_without_systemd(systemd))
    else:
        systemd.run("daemon-reload")
        systemd.run("enable", *systemd_units.NAMES)
        pid = _main_pid(systemd)
    if pid:
        return pid, [f"systemctl --user restart {BOTH_UNITS}"] if changed else []
    if owner:
        print_error(f"walrusd already runs on {home} (pid {owner.pid}), but not as this service")
        return None, [f"kill {owner.pid}", enable]
    if isinstance(systemd, str):
        return None, ["systemctl --user daemon-reload", enable]
    # Try a service that failed too often again: the cause may have been fixed.
    systemd.run("reset-failed", *systemd_units.NAMES)
    systemd.run("start", *systemd_units.NAMES, timeout_s=ctx.timeout or JOB_TIMEOUT_S)
    return _main_pid(systemd), []


@command("walrusctl service uninstall")
@click.option("--force", is_flag=True, help="Also remove edited units and those of another home.")
def uninstall(ctx: CliContext, *, force: bool) -> None:
    """Stop the service and remove its units.

    The home with all sessions stays.
    """
    home, folder = ctx.home_path(), systemd_units.unit_folder(os.environ)
    states = systemd_units.read_states(folder, home, {})
    if not force:
        _require_own_home(folder, home, "removes them anyway")
        _require_unmodified(folder, states, ("edited",))
    ours = [name for name, state in states.items() if state not in ("absent", "foreign")]
    systemd = find_user_systemd(os.environ)
    try:
        if ours and isinstance(systemd, UserSystemd):
            systemd.run("disable", "--now", *ours, timeout_s=ctx.timeout or JOB_TIMEOUT_S)
        removed = [systemd_units.remove_unit(folder, name) for name in ours]
        if ours and isinstance(systemd, UserSystemd):
            systemd.run("daemon-reload")
    except OSError as error:
        message = f"{error.filename}: {error.strerror}"
        raise CommandFailed(message, "make it writable for your own user, and try again") from None
    foreign = [name for name, state in states.items() if state == "foreign"]
    not_ours = [*foreign, *(f"{name}.d" for name in systemd_units.NAMES)]
    kept = [path for path in (*(os.path.join(folder, name) for name in not_ours), home) if os.path.lexists(path)]
    owner = find_lock_owner(paths.home_paths(home).lock)
    if ctx.json:
        print_json({"removed": removed, "kept": kept, "pid": owner and owner.pid})
        return
    for path in removed:
        print_answer(f"removed {path}")
    for path in kept:
        print_answer(f"kept {path}")
    if owner:
        print_error(f"walrusd still runs on {home} (pid {owner.pid})", f"`kill {owner.pid}` stops it")


@command("walrusctl service status")
def status(ctx: CliContext) -> None:
    """Show whether the service is installed and running.

    Exit 0: it runs. 3: it is not installed. 4: it does not run.
    """
    systemd = find_user_systemd(os.environ)
    home, folder = ctx.home_path(), systemd_units.unit_folder(os.environ)
    installation, config_error = plan_service(ctx, systemd)
    states = systemd_units.read_states(folder, home, {} if config_error else systemd_units.render_units(installation))
    installed = not {"absent", "of another home"} & set(states.values())
    now = read_service_state(systemd) if installed and isinstance(systemd, UserSystemd) else None
    linger = is_lingering(os.environ)
    if ctx.json:
        report = {
            "installed": installed,
            "home": systemd_units.read_home(folder),
            "up_to_date": None if config_error else set(states.values()) == {"current"},
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
        _print_advice(ctx, systemd, states, config_error, now and now.pid)
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
    units = [(name, f"{state}, {os.path.join(folder, name)}") for name, state in states.items()]
    fields = (
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
    return format_fields([*units, *fields, ("lingers", linger)])


def _print_advice(
    ctx: CliContext,
    systemd: UserSystemd | str,
    states: Mapping[str, systemd_units.UnitState],
    config_error: ConfigError | None,
    pid: int | None,
) -> None:
    """Prints problems of the service, and what to do about them."""
    home, folder = ctx.home_path(), systemd_units.unit_folder(os.environ)
    if isinstance(systemd, str):
        print_error(systemd, hint_without_systemd(systemd))
    if other := systemd_units.find_other_home(folder, home):
        print_error(
            _other_home_message(other), f"`walrusctl --home {shlex.quote(other)} service status` shows its state"
        )
    elif "absent" in states.values():
        print_error("the service is not installed", "install it with `walrusctl service install`")
    elif "outdated" in states.values():
        print_error(
            "the units do not match this walrusd, home and configuration",
            "rewrite them with `walrusctl service install`",
        )
    elif config_error:
        print_error(f"the service could not start: {config_error}")
    owner = find_lock_owner(paths.home_paths(home).lock)
    if owner and owner.pid != pid:
        print_error(f"walrusd runs on this home (pid {owner.pid}), but not as this service")


def _make_home(ctx: CliContext, home: str) -> list[str]:
    """Creates what `walrusd --init` creates, and returns the new paths."""
    try:
        return [*([home] if paths.prepare_home(home) else []), *scaffold(home)]
    except ConfigError as error:
        print_error(str(error))
        ctx.exit_with_problems(error)


def _print_config_error(home: str, config_error: ConfigError) -> None:
    print_error(str(config_error))
    if works_only_in_this_shell(home):
        hint = f"write NAME=value into {home}/environment, and chmod 600 it"
        print_error("variables that your shell exports do not reach a service", hint)


def _other_home_message(home: str) -> str:
    return f"the installed service is for another home, {home}"


def _require_own_home(folder: str, home: str, force_effect: str) -> None:
    """Exits if the units are for another home: a user has one service, which must not change unnoticed."""
    if other := systemd_units.find_other_home(folder, home):
        status_hint = f"`walrusctl --home {shlex.quote(other)} service status` shows its state"
        raise CommandFailed(_other_home_message(other), f"{status_hint}; --force {force_effect}")


def _require_unmodified(
    folder: str,
    states: Mapping[str, systemd_units.UnitState],
    protected: tuple[systemd_units.UnitState, ...],
) -> None:
    """Exits if a unit is in a protected state, so that manual changes are not lost unnoticed."""
    for name, state in states.items():
        if state in protected:
            problem = "was edited by hand" if state == "edited" else "was not written by walrusctl"
            hint = f"move your changes to `systemctl --user edit {name}`; then --force replaces or removes the unit"
            raise CommandFailed(f"{os.path.join(folder, name)} {problem}", hint)


def _main_pid(systemd: UserSystemd) -> int | None:
    return int(systemd.read_properties(systemd_units.SERVICE, "MainPID").get("MainPID", "0")) or None
