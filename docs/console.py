"""Replays the console examples of the documentation in a real shell.

    python -m docs.console README.md docs/tour.md      # writes into each page what its commands print now

`make docs` calls it, and tests/test_readme.py compares the pages with what it finds.
"""

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SHOWN_HOME = "/tmp/walrus-tour"
"""The home that the pages show. The replay uses a folder of its own instead."""
TIMEOUT_S = 60.0
"""Seconds after which a replay is killed; the tour takes 8."""
NOT_TYPED = ("make ", "bash", "exit")
"""Commands that the reader types and the replay skips: it already has an environment and a shell."""


class Output(NamedTuple):
    """One command, its output, and its start and end, in seconds after the first command."""

    command: str
    lines: list[str]
    started_s: float
    ended_s: float


def console_block(page: str) -> str:
    """Returns the text of the page's console example."""
    found = re.search(r"```console\n(.*?)```", page, re.DOTALL)
    if not found:
        raise ValueError("the page has no console example")
    return found[1]


def commands_of(block: str) -> list[str]:
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def replay(commands: list[str]) -> Iterator[Output]:
    """Types the commands into one bash and yields what each printed, stdout and stderr together."""
    folder = tempfile.mkdtemp(prefix="walrus-docs-")
    home = f"{folder}/home"
    binaries = str(Path(sys.executable).parent)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WALRUS")}
    shell = subprocess.Popen(
        ["bash"], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert shell.stdin is not None
    assert shell.stdout is not None
    kill_all = functools.partial(os.killpg, shell.pid, signal.SIGKILL)
    deadline = threading.Timer(TIMEOUT_S, kill_all)
    deadline.start()
    first = time.monotonic()
    try:
        for command in commands:
            started, lines = time.monotonic() - first, []
            if not command.startswith(NOT_TYPED):
                typed = command.replace(SHOWN_HOME, home).replace("$PWD/.venv/bin", binaries)
                shell.stdin.write(f"{typed}\nprintf '\\n--%s--\\n' END\n")
                shell.stdin.flush()
                for line in iter(shell.stdout.readline, "--END--\n"):
                    if not line:
                        raise RuntimeError(f"the shell ended, or took more than {TIMEOUT_S} s, at: {command}")
                    lines.append(_as_shown(line, home, binaries))
                if typed.startswith("(walrusd "):  # on a loaded machine it may need longer than the page says
                    _wait_for_socket(f"{home}/walrus.sock")
                if lines and not lines[-1]:
                    lines.pop()  # the line end before the marker
                if any("Traceback" in line for line in lines):
                    raise RuntimeError(f"{command} failed:\n" + "\n".join(lines))
            yield Output(command, lines, started, time.monotonic() - first)
    finally:
        deadline.cancel()
        with shell:  # closes its pipes and waits for its end
            kill_all()  # whatever an example that failed has left running
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_socket(path: str) -> None:
    """Waits until a walrusd accepts connections, at most TIMEOUT_S."""
    deadline = time.monotonic() + TIMEOUT_S
    with socket.socket(socket.AF_UNIX) as probe:
        while probe.connect_ex(path):
            if time.monotonic() > deadline:
                raise RuntimeError(f"walrusd did not open {path} within {TIMEOUT_S} s")
            time.sleep(0.05)


def _as_shown(line: str, home: str, binaries: str) -> str:
    return line.rstrip("\n").replace(home, SHOWN_HOME).replace(binaries, "$PWD/.venv/bin")


def render(outputs: list[Output]) -> str:
    """Returns the console example: each command behind `$ `, and its output below it."""
    return "".join(f"{line}\n" for output in outputs for line in (f"$ {output.command}", *output.lines))


def mask_variable_parts(text: str) -> str:
    """Replaces what differs from run to run: times of day and durations."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<when>", text)
    text = re.sub(r"\d+ ms", "<ms>", text)
    text = re.sub(r"\b\d+\.\d s\b", "<s>", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def update(path: Path) -> None:
    """Writes into a page what its commands print now, unless only times changed."""
    page = path.read_text()
    shown = console_block(page)
    found = render(list(replay(commands_of(shown))))
    if mask_variable_parts(found) != mask_variable_parts(shown):
        path.write_text(page.replace(shown, found))
        print(f"{path}: updated")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        update(Path(name))
