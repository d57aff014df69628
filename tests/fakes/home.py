"""A home of one's own and a real walrusd on it: a child process, seen through its socket, its log and its end.

    home = Home(tmp_path / "home", ECHO)
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client: ...

Leaving the block stops the daemon with TERM, and checks that it ended well and left nothing behind.
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
"""Before something that should come about within a second is given up; a laden machine is slow."""

ECHO = """
[daemon]
shutdown_grace_s = 0.1
[defaults]
model = "echo"
[providers.echo]
kind = "echo"
models = ["echo"]
"""
"""The least that answers."""

WALRUSCTL = "from walrusctl.cli import main; main()"

LogLine = dict[str, Any]
"""One line of the daemon's log; what is no JSON stands under "text"."""


class WalrusdProcess:
    """A running walrusd. What it writes to stderr is read as it comes, so that it never waits for us."""

    def __init__(self, command: Sequence[str], socket: Path, environ: Mapping[str, str]) -> None:
        self.socket = socket
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            close_fds=False,  # what a test has made inheritable is meant for it
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
        """What has been logged so far of one kind."""
        with self._changed:
            return [line for line in self.log_lines if line.get("event") == event]

    def wait_for(self, condition: Callable[[Self], bool]) -> None:
        """Wait until something holds that a line of the log brings about, or the end of the process."""
        with self._changed:
            held = self._changed.wait_for(lambda: condition(self) or self._has_ended, MAX_WAIT_S)
        assert condition(self), f"the daemon {'never got there' if not held else 'ended first'}:\n{self.stderr}"

    async def wait_for_async(self, condition: Callable[[Self], bool]) -> None:
        """`wait_for` beside other tasks."""
        await trio.to_thread.run_sync(self.wait_for, condition)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_exit(self) -> int:
        """Wait for the end; the exit status."""
        status = self.process.wait(MAX_WAIT_S)
        self._stderr_thread.join(MAX_WAIT_S)
        return status

    def terminate(self) -> int:
        """Stop it as an init would; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait_exit()

    def kill(self) -> None:
        """End it as a power cut would."""
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
    """A folder as walrusd wants it, with a walrus.toml of the test's own."""

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
        """walrus.toml with a line more for a while; file:line of that."""
        text = self.toml.read_text()
        self.toml.write_text(f"{text}{line}\n")
        try:
            yield f"{self.toml}:{text.count(chr(10)) + 1}"
        finally:
            self.toml.write_text(text)

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Nothing of the tester's own environment, above all no keys."""
        path = os.pathsep.join(str(ROOT / folder) for folder in (".", "protocol", "config"))
        return {"PATH": os.environ["PATH"], "HOME": str(self.path.parent), "PYTHONPATH": path, **(extra or {})}

    @contextlib.contextmanager
    def walrusd(
        self, *options: str, environ: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> Iterator[WalrusdProcess]:
        """A daemon that is ready. `by`: a command that execs what it is given.

        A block that has ended the daemon itself is asked nothing more.
        """
        daemon = self.start(*options, environ=environ, wrapper=wrapper)
        try:
            daemon.wait_for(lambda daemon: bool(daemon.lines_of("ready")))
            yield daemon
            if daemon.process.poll() is None:
                children = descendants(daemon.pid)
                assert daemon.terminate() == 0, "TERM is a good end"
                assert not [pid for pid in children if _is_alive(pid)], "a child outlived its walrusd"
                assert not daemon.socket.exists(), "the socket was left behind"
                self.check_unlocked()
        finally:
            daemon.process.kill()
            daemon.wait_exit()
            print(daemon.stderr)  # noqa: T201 - pytest shows it beside a failure

    def start(
        self, *options: str, environ: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> WalrusdProcess:
        """A daemon that has just been started. The caller ends it."""
        command = [*wrapper, sys.executable, "-m", "walrusd", "--home", str(self.path), *options]
        at = Path(options[options.index("--socket") + 1]) if "--socket" in options else self.socket
        return WalrusdProcess(command, at, self.environ(environ))

    def run_to_exit(
        self, *options: str, environ: Mapping[str, str] | None = None, wrapper: Sequence[str] = ()
    ) -> tuple[int, str]:
        """The exit status and the words of a daemon that ends by itself."""
        daemon = self.start(*options, environ=environ, wrapper=wrapper)
        try:
            return daemon.wait_exit(), daemon.stderr
        finally:
            daemon.process.kill()
            daemon.wait_exit()

    def walrusctl(
        self, *arguments: str, stdin: str | None = None, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command that has ended."""
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
        """walrusctl on this home, for who starts it themselves."""
        return [sys.executable, "-c", WALRUSCTL, "--home", str(self.path), *arguments]

    def wait_until_served(self) -> None:
        """For a daemon whose log says nothing. A socket tells nobody that it is about to be there."""
        deadline = time.monotonic() + MAX_WAIT_S
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                return
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.01)

    def check_unlocked(self) -> None:
        with open(self.path / "walrusd.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
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
