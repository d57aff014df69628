"""A temporary walrusd home for a test, and a real walrusd on it as a child process.

    home = Home(tmp_path / "home", ECHO)
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client: ...

Leaving the block stops the daemon with SIGTERM, and checks that it exits with 0 and leaves no process or socket.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import trio

ROOT = Path(__file__).parent.parent.parent
MAX_WAIT_S = 20.0
"""Seconds before a test gives up on something that normally takes less than one.

A loaded machine is slow.
"""

ECHO = """
[daemon]
shutdown_grace_s = 0.1
[defaults]
model = "echo"
[providers.echo]
kind = "echo"
models = ["echo"]
"""
"""The shortest walrus.toml with a model that answers."""

WALRUSCTL = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from walrusctl.cli import main; main()"
)
"""A script that runs walrusctl and restores the default action of SIGINT.

A child inherits an ignored SIGINT, as in `make test &`, and walrusctl then rightly ignores Ctrl-C.
"""

LogLine = dict[str, Any]
"""One line of the daemon's log; a line that is not JSON is stored under "text"."""


class WalrusdProcess:
    """A running walrusd. A thread reads its stderr, so that the daemon never blocks on a full pipe."""

    def __init__(self, command: Sequence[str], socket: Path, environ: Mapping[str, str]) -> None:
        self.socket = socket
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            close_fds=False,  # a test makes a descriptor inheritable to pass it to the daemon
        )
        self.stderr = ""
        self.log_lines: list[LogLine] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._stderr_thread = threading.Thread(target=self._read_stderr)
        self._stderr_thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines_of(self, event: str) -> list[LogLine]:
        """Returns the log lines of one event so far."""
        with self._changed:
            return [line for line in self.log_lines if line.get("event") == event]

    def wait_for(self, condition: Callable[[Self], bool]) -> None:
        """Waits until the condition holds or the process ends; the condition is checked after each log line."""
        with self._changed:
            held = self._changed.wait_for(lambda: condition(self) or self._has_ended, MAX_WAIT_S)
        assert condition(self), f"{'the wait timed out' if not held else 'the daemon ended first'}:\n{self.stderr}"

    async def wait_for_async(self, condition: Callable[[Self], bool]) -> None:
        """Runs `wait_for` in a thread, while other tasks run."""
        await trio.to_thread.run_sync(self.wait_for, condition)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_exit(self) -> int:
        """Waits until the process ends; returns the exit status."""
        status = self.process.wait(MAX_WAIT_S)
        self._stderr_thread.join(MAX_WAIT_S)
        return status

    def terminate(self) -> int:
        """Stops the process with SIGTERM, as an init system does; returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait_exit()

    def kill(self) -> None:
        """Kills the process with SIGKILL."""
        self.process.kill()
        self.wait_exit()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        with self.process.stdout, self.process.stderr as stderr:
            for raw in stderr:
                text = raw.decode(errors="replace")
                with self._changed:
                    self.stderr += text
                    self.log_lines.append(_parse_log_line(text))
                    self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()


class Home:
    """A walrusd home folder with the test's walrus.toml."""

    def __init__(self, path: Path, toml: str = ECHO) -> None:
        self.path = path
        self.toml = path / "walrus.toml"
        self.socket = path / "walrus.sock"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.write("walrus.toml", toml)

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)
        return file

    @contextlib.contextmanager
    def with_extra_line(self, line: str) -> Iterator[str]:
        """Appends a line to walrus.toml for the duration of the block; yields its `file:line`."""
        text = self.toml.read_text()
        self.toml.write_text(f"{text}{line}\n")
        try:
            yield f"{self.toml}:{text.count(chr(10)) + 1}"
        finally:
            self.toml.write_text(text)

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Returns a minimal environment: it contains nothing of the user's own, above all no API keys."""
        path = os.pathsep.join(str(ROOT / folder) for folder in (".", "protocol", "config"))
        return {"PATH": os.environ["PATH"], "HOME": str(self.path.parent), "PYTHONPATH": path, **(extra or {})}

    @contextlib.contextmanager
    def walrusd(
        self, *options: str, environ: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> Iterator[WalrusdProcess]:
        """Yields a daemon that is ready. `wrapper` is a command that execs its arguments.

        The checks at the end are left out if the block has ended the daemon itself.
        """
        daemon = self.start(*options, environ=environ, wrapper=wrapper)
        try:
            daemon.wait_for(lambda daemon: bool(daemon.lines_of("ready")))
            yield daemon
            if daemon.process.poll() is None:
                children = descendants(daemon.pid)
                assert daemon.terminate() == 0, "SIGTERM must end the daemon with status 0"
                assert not [pid for pid in children if _is_alive(pid)], "a child process outlived walrusd"
                assert not daemon.socket.exists(), "the socket was left behind"
                self.check_unlocked()
        finally:
            daemon.process.kill()
            daemon.wait_exit()
            print(daemon.stderr)  # noqa: T201 - pytest shows it with a failure

    def start(
        self, *options: str, environ: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> WalrusdProcess:
        """Starts a daemon without waiting until it is ready. The caller must end it."""
        command = [*wrapper, sys.executable, "-m", "walrusd", "--home", str(self.path), *options]
        socket_path = Path(options[options.index("--socket") + 1]) if "--socket" in options else self.socket
        return WalrusdProcess(command, socket_path, self.environ(environ))

    def run_to_exit(
        self, *options: str, environ: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> tuple[int, str]:
        """Starts a daemon that ends by itself; returns its exit status and its stderr."""
        daemon = self.start(*options, environ=environ, wrapper=wrapper)
        try:
            return daemon.wait_exit(), daemon.stderr
        finally:
            daemon.process.kill()
            daemon.wait_exit()

    def walrusctl(
        self, *arguments: str, stdin: str | None = None, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs walrusctl on this home until it ends."""
        return subprocess.run(
            self.command_line(*arguments),
            cwd=ROOT,
            env=self.environ(environ),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=MAX_WAIT_S,
            check=False,
        )

    def command_line(self, *arguments: str) -> list[str]:
        """Returns the command line of walrusctl on this home, for tests that start the process themselves."""
        return [sys.executable, "-c", WALRUSCTL, "--home", str(self.path), *arguments]

    def wait_until_served(self) -> None:
        """Polls the socket until it accepts a connection; for daemons that do not log `ready`."""
        deadline = time.monotonic() + MAX_WAIT_S
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                return
            assert time.monotonic() < deadline, "no process listens on the socket"
            time.sleep(0.01)

    def check_unlocked(self) -> None:
        with open(self.path / "walrusd.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def descendants(pid: int) -> list[int]:
    """Returns the pids of all descendants of a process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents.setdefault(int(stat[stat.rindex(")") + 1 :].split()[1]), []).append(int(entry.name))
    found = parents.get(pid, [])
    for child in found:
        found += parents.get(child, [])
    return found


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def _parse_log_line(text: str) -> LogLine:
    try:
        line = json.loads(text)
    except ValueError:
        return {"text": text}
    return line if isinstance(line, dict) else {"text": text}
