"""The life of one engine process: started, loading, ready, ended. What it logs is kept to explain its end."""

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import trio
from msgspec import Struct

COMMAND = (sys.executable, "-P", "-m", "walrusd.providers.local_server")
"""-P: a json.py in the folder that the daemon was started in is not the engine's."""
KEPT_LOG = 4096
"""Bytes of the engine's log that are kept: a traceback fits, or its last twenty lines."""
END_S = 2.0
"""How long an engine may take to end by itself once its stdin is closed; it takes milliseconds."""
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


class Order(Struct, frozen=True, kw_only=True):
    """What the engine is told, in one line on its stdin; the key is in no list of processes."""

    weights: str
    context_window: int
    key: str


class _Ready(Struct):
    url: str


class Engine:
    """One process. `settled` is set once it is ready or has ended; `url` is empty until it is ready."""

    def __init__(self, weights: str, context_window: int) -> None:
        self.order = Order(weights=weights, context_window=context_window, key=secrets.token_urlsafe(24))
        self.url = ""
        self.pid = 0
        self.settled = trio.Event()
        self.ended = trio.Event()
        self.end = ""
        """How it ended, in words."""
        self._log = b""

    @property
    def last_words(self) -> str:
        return self._log.decode(errors="replace")[-400:]

    async def run(self, command: Sequence[str] = COMMAND) -> None:
        """Start the process and stay with it until it ends; cancelling ends it. Never raises for what it does."""
        try:
            # Starting takes a fork's time in a thread, not on the loop. No PDEATHSIG, so any thread will do.
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
            )
        except OSError as error:
            self._settle(str(error))
            return
        self.pid = process.pid
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_log, process)
                await self._start(process)
                await process.wait()
        finally:
            await _ended(process)  # noqa: ASYNC102 - it is shielded and timed inside
            code = process.returncode
            self._settle(f"signal {-code}" if code is not None and code < 0 else f"exit status {code}")

    def _settle(self, end: str) -> None:
        self.url, self.end = "", end
        self.ended.set()
        self.settled.set()

    async def _start(self, process: trio.Process) -> None:
        assert process.stdin is not None, "it was asked to be a pipe"
        assert process.stdout is not None, "it was asked to be a pipe"
        line = b""
        try:
            await process.stdin.send_all(msgspec.json.encode(self.order) + b"\n")
            while not line.endswith(b"\n") and (more := await process.stdout.receive_some()):
                line += more
            self.url = msgspec.json.decode(line, type=_Ready).url
        except (trio.BrokenResourceError, msgspec.DecodeError):
            if not line.endswith(b"\n"):  # it is on its way out, and its own exit status says more than our signal
                with trio.move_on_after(END_S):
                    await process.wait()
            process.kill()
            return
        self.settled.set()

    async def _keep_log(self, process: trio.Process) -> None:
        assert process.stderr is not None, "it was asked to be a pipe"
        async for chunk in process.stderr:
            self._log = (self._log + chunk)[-KEPT_LOG:]


async def _ended(process: trio.Process) -> None:
    """Close its stdin, which ends it, and reap it; kill it if that was not enough."""
    with trio.move_on_after(END_S, shield=True):
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                await pipe.aclose()
        await process.wait()
    if process.returncode is None:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def _environment(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the engine needs and no more: the daemon's environment may hold keys."""
    passed = {name: given[name] for name in _PASSED_ON if name in given}
    return {**passed, "PYTHONPATH": str(Path(__file__).parents[2])}
