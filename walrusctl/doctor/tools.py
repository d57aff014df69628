"""Doctor checks of what tools need and may do: programs, the sandbox, XDG_RUNTIME_DIR."""

import os
import shutil
import stat
from collections.abc import Iterator

from walrus_config.errors import ConfigError
from walrusctl.doctor.check import Finding
from walrusctl.doctor.context import DoctorContext

_REQUIRED_PROGRAMS = {
    "bash": "install bash: the tool bash and the probes of heartbeats need it",
    "setpriv": "install util-linux: with setpriv, processes of tools end even if walrusd is killed",
}


def check_programs(context: DoctorContext) -> Iterator[Finding]:
    path = context.environ.get("PATH")
    missing = [name for name in _REQUIRED_PROGRAMS if not shutil.which(name, path=path)]
    for name in missing:
        yield Finding("warning", f"{name} is not on the PATH", _REQUIRED_PROGRAMS[name])
    if not missing:
        yield Finding("ok", f"{' and '.join(_REQUIRED_PROGRAMS)} are installed")


def check_sandbox(context: DoctorContext) -> Iterator[Finding]:
    if isinstance(context.config, ConfigError):
        return
    from walrus_config.schema import is_bash_offered  # imports msgspec, which the configuration has loaded

    if is_bash_offered(context.config.tools):
        hint = "do not permit it to agents that read untrusted text; remove [tools.bash] to switch it off"
        yield Finding("warning", "bash runs without a sandbox: a permitted command can do whatever you can", hint)
    else:
        message = "there is no sandbox yet, and no tool needs one: read is limited to the workspace of its agent"
        yield Finding("ok", message)


def check_runtime_folder(context: DoctorContext) -> Iterator[Finding]:
    """Checks XDG_RUNTIME_DIR, which `systemctl --user` needs; walrusd itself does not use it."""
    folder = context.environ.get("XDG_RUNTIME_DIR", "")
    if not folder:
        hint = f"only `systemctl --user` needs it: export XDG_RUNTIME_DIR=/run/user/{os.geteuid()}, or log in again"
        yield Finding("warning", "XDG_RUNTIME_DIR is not set", hint)
        return
    try:
        status = os.stat(folder)
    except OSError as error:
        hint = "log in again; with `loginctl enable-linger` the folder stays after a logout"
        yield Finding("warning", f"XDG_RUNTIME_DIR, {folder}: {error.strerror}", hint)
        return
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        hint = "log in directly instead of with su; only the user itself may have access to it"
        message = f"XDG_RUNTIME_DIR, {folder}, belongs to another user or is open to others"
        yield Finding("warning", message, hint)
    else:
        yield Finding("ok", folder)
