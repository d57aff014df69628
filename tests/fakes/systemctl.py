"""Fake systemctl, loginctl and journalctl programs.

They are shell scripts that answer from files and record their arguments.
"""

from pathlib import Path

_SYSTEMCTL = """#!/bin/sh
echo "$*" >> "{folder}/asked"
[ -z "$XDG_RUNTIME_DIR" ] && {{ echo "Failed to connect to bus: No medium found" >&2; exit 1; }}
shift 2
if [ -e "{folder}/$1.refused" ]; then cat "{folder}/$1.refused" >&2; exit 1; fi
case "$1" in
show-environment) cat "{folder}/environment" ;;
show) if [ -e "{folder}/$2" ]; then cat "{folder}/$2"; else cat "{folder}/service"; fi ;;
start) cat "{folder}/running" > "{folder}/service" ;;
esac
"""
_LOGINCTL = """#!/bin/sh
echo "loginctl $*" >> "{folder}/asked"
cat "{folder}/linger"
"""
_JOURNALCTL = """#!/bin/sh
case "$*" in
*"_UID="*"USER_UNIT=walrusd.service MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15 --lines=1 "*) cat "{folder}/journal" ;;
esac
"""
RUNNING = """\
ActiveState=active
SubState=running
UnitFileState=enabled
MainPID=4711
Result=success
ExecMainCode=0
ExecMainStatus=0
NRestarts=0
"""
STOPPED = """\
ActiveState=inactive
SubState=dead
UnitFileState=disabled
MainPID=0
Result=success
ExecMainCode=0
ExecMainStatus=0
NRestarts=0
"""


class FakeSystemd:
    """Installs the fake programs in the folder `path`; the `set_…` methods define what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "bin"
        self.path.mkdir(parents=True)
        for name, text in (("systemctl", _SYSTEMCTL), ("loginctl", _LOGINCTL), ("journalctl", _JOURNALCTL)):
            (self.path / name).write_text(text.format(folder=folder))
            (self.path / name).chmod(0o755)
        self.set_environment("HOME=/home/ann")
        (folder / "running").write_text(RUNNING)
        self.set_service(STOPPED)
        self.set_linger("Linger=yes")
        self.set_journal("")

    @property
    def commands(self) -> list[str]:
        """The recorded systemctl commands, without those that only read."""
        file = self.folder / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        commands = [line.removeprefix("--user --no-ask-password ") for line in lines]
        return [line for line in commands if line.split()[0] not in ("show", "show-environment", "loginctl")]

    def set_environment(self, *pairs: str) -> None:
        """Sets the environment that systemctl shows for services."""
        (self.folder / "environment").write_text("\n".join(pairs))

    def set_service(self, properties: str) -> None:
        (self.folder / "service").write_text(properties)

    def set_socket(self, properties: str) -> None:
        """Sets the properties that are shown for the socket; by default those of the service are shown."""
        (self.folder / "walrusd.socket").write_text(properties)

    def set_journal(self, entry: str) -> None:
        (self.folder / "journal").write_text(entry)

    def set_linger(self, answer: str) -> None:
        (self.folder / "linger").write_text(answer)

    def set_failure(self, verb: str, stderr: str) -> None:
        (self.folder / f"{verb}.refused").write_text(stderr)
