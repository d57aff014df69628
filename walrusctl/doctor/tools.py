"""What tools need, and what they may do: programs, the sandbox, the folder of the login session."""

import os
import shutil
import stat
from collections.abc import Iterator

from walrus_config.errors import ConfigError
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DoctorContext

_REQUIRED_PROGRAMS = {
    "bash": "install it: the tool bash and the probes of heartbeats run in it",
    "setpriv": "install util-linux: with it, what tools start ends with walrusd even where that is killed",
}


def check_programs(context: DoctorContext) -> Iterator[Check]:
    path = context.environ.get("PATH")
    missing = [name for name in _REQUIRED_PROGRAMS if not shutil.which(name, path=path)]
    for name in missing:
        yield Check("programs", "warning", f"{name} is not on the PATH", _REQUIRED_PROGRAMS[name])
    if not missing:
        yield Check("programs", "fine", f"{' and '.join(_REQUIRED_PROGRAMS)} are there")


def check_sandbox(context: DoctorContext) -> Iterator[Check]:
    if isinstance(context.config, ConfigError):
        return
    from walrus_config.schema import is_bash_offered  # msgspec's, loaded by now for the configuration

    if is_bash_offered(context.config.tools):
        hint = "permit it to no agent that reads what strangers write; take [tools.bash] out to be without it"
        yield Check("sandbox", "warning", "bash runs without one: a permitted command can do whatever you can", hint)
    else:
        message = "there is none yet, and no tool that needs one: read stays in the workspace of its agent"
        yield Check("sandbox", "fine", message)


def check_runtime_folder(context: DoctorContext) -> Iterator[Check]:
    """XDG_RUNTIME_DIR, by which `systemctl --user` finds the user's systemd. walrusd itself does without."""
    folder = context.environ.get("XDG_RUNTIME_DIR", "")
    if not folder:
        hint = f"only `systemctl --user` needs it: export XDG_RUNTIME_DIR=/run/user/{os.geteuid()}, or log in anew"
        yield Check("runtime folder", "warning", "XDG_RUNTIME_DIR is not set", hint)
        return
    try:
        found = os.stat(folder)
    except OSError as error:
        hint = "log in anew; `loginctl enable-linger` keeps it when you log out"
        yield Check("runtime folder", "warning", f"XDG_RUNTIME_DIR, {folder}: {error.strerror}", hint)
        return
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        hint = "log in anew rather than by su: its own user alone may enter it"
        yield Check("runtime folder", "warning", f"XDG_RUNTIME_DIR, {folder}, is another's or open to others", hint)
    else:
        yield Check("runtime folder", "fine", folder)
