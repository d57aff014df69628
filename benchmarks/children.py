"""Starts the processes of a benchmark: fake provider, walrusd, echo server, clients.

Each process ends with its block.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.wire import RawConnection

ROOT = Path(__file__).parent.parent
STOP_TIMEOUT_S = 20.0
"""Seconds that a process may take to end after SIGTERM."""


def environ() -> dict[str, str]:
    """Returns a minimal environment that allows writing bytecode.

    Without bytecode, imports take two to three times as long.
    """
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}),
    }


@contextmanager
def child(arguments: Sequence[str], *, stderr_path: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Runs a Python process whose stdin and stdout are pipes; stderr goes to `stderr_path`, or to ours."""
    with open(stderr_path or os.devnull, "a") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environ(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors if stderr_path else None,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=STOP_TIMEOUT_S)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args!r} ended before it printed a line")
    return line


def send_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


@contextmanager
def provider() -> Iterator[str]:
    """Runs the fake provider; yields its base URL."""
    with child(["-m", "benchmarks.provider"]) as process:
        yield read_line(process)


class DaemonProcess:
    """A running walrusd that answers requests."""

    def __init__(self, process: subprocess.Popen[str], home: Path) -> None:
        self.pid = process.pid
        self.home = home
        self.socket = str(home / "walrus.sock")

    def connect(self) -> RawConnection:
        return RawConnection(self.socket)


def make_home(folder: Path, base_url: str, *, durability: str = "full", models: Sequence[str] = ()) -> Path:
    """Creates a walrusd home whose models are those of the fake provider."""
    folder.mkdir(mode=0o700)
    names = ", ".join(f'"{name}"' for name in ("say", *models))
    agents = "".join(f'[agents.{name}]\ndescription = "A benchmark."\nmodel = "{name}"\n' for name in models)
    toml = folder / "walrus.toml"
    toml.write_text(
        f"""
[daemon]
shutdown_grace_s = 0.1
[defaults]
model = "say"
[storage]
durability = "{durability}"
[providers.bench]
kind = "openai"
base_url = "{base_url}"
api_key = "not-a-key"
models = [{names}]
{agents}"""
    )
    toml.chmod(0o600)
    return folder


def make_echo_home(folder: Path) -> Path:
    """Creates a walrusd home with the echo model, so that only the daemon is measured."""
    folder.mkdir(mode=0o700)
    toml = folder / "walrus.toml"
    toml.write_text(
        """
[daemon]
shutdown_grace_s = 0.1
log_level = "warning"
[defaults]
model = "echo"
[providers.echo]
kind = "echo"
models = ["echo"]
"""
    )
    toml.chmod(0o600)
    return folder


@contextmanager
def walrusd(home: Path, module: str = "walrusd") -> Iterator[DaemonProcess]:
    """Runs a daemon on an existing home; yields it when it is ready. `module` is the program that runs it."""
    log = home.parent / f"{home.name}.log"
    try:
        with child(["-m", module, "--home", str(home)], stderr_path=log) as process:
            daemon = DaemonProcess(process, home)
            wait_ready(daemon.socket, process)
            yield daemon
        if process.returncode:
            raise RuntimeError(f"walrusd ended with {process.returncode}")
    except Exception as error:
        error.add_note(f"The end of the daemon's log:\n{log.read_text()[-2000:]}")
        raise


def wait_ready(socket_path: str, process: subprocess.Popen[str]) -> None:
    """Waits until the socket answers a ping. Raises RuntimeError if the process ends first."""
    while process.poll() is None:
        try:
            connection = RawConnection(socket_path)
        except OSError:
            time.sleep(0.001)
            continue
        try:
            connection.call("daemon.ping", {})
            return
        finally:
            connection.close()
    raise RuntimeError(f"walrusd ended with {process.returncode} before it was ready")
