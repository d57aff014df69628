"""Runs one engine process of a local model; keeps the end of its log to explain a failure."""

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio
from msgspec import Struct
from trio.abc import ReceiveStream, SendStream

from walrus_protocol.json import BadJson, decode
from walrusd.host.child import Child
from walrusd.host.launch import SpawnFailed
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import Redaction

COMMAND = (sys.executable, "-P", "-m", "walrusd.providers.local_server")
"""The engine's command line.

-P: a json.py in the daemon's working directory must not shadow the engine's imports.
"""
LOG_TAIL_BYTES = 4096
"""Maximum bytes kept of the engine's log: enough for a traceback, or its last twenty lines."""
EXIT_TIMEOUT_S = 2.0
"""Maximum seconds for an engine to exit once its stdin is closed; it normally takes milliseconds."""
_INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


class EngineOptions(Struct, frozen=True, kw_only=True):
    """The engine's options, sent as one line of JSON on its stdin, so that the key is not visible to `ps`."""

    weights: str
    context_window: int
    key: str


class _EngineReport(Struct):
    """The line that the engine writes once it has loaded, or has failed to."""

    url: str = ""
    error: str = ""


class Engine:
    """One engine process. `url` is empty until it is ready, and after it has ended."""

    def __init__(self, spawner: Spawner, weights: str, context_window: int) -> None:
        self._spawner = spawner
        self.options = EngineOptions(
            weights=os.path.abspath(weights), context_window=context_window, key=secrets.token_urlsafe(24)
        )
        self.redact = Redaction([self.options.key])
        self.url = ""
        self.pid = 0
        self.scope = trio.CancelScope()
        self.ready_or_ended = trio.Event()
        self.ended = trio.Event()
        self.end_reason = ""
        """How it ended, for an error message: an exit status, a signal or a failure to start."""
        self._error = ""
        self._log = b""

    @property
    def failure_detail(self) -> str:
        return self._error or self.redact(self._log.decode(errors="replace"))[-400:]

    async def run(self, command: Sequence[str]) -> None:
        """Starts the process and waits until it ends; cancelling `scope` ends it. A failing process raises nothing."""
        with self.scope:
            try:
                child = await self._spawner.spawn(
                    command, cwd="/", env=_engine_environment(), stdin="pipe", stderr="pipe"
                )
            except SpawnFailed as failed:
                self._mark_ended(f"{failed} {failed.hint}".strip())
                return
            assert child.stdin is not None, "stdin and stderr are requested as pipes"
            assert child.stderr is not None, "stdin and stderr are requested as pipes"
            self.pid = child.pid
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._collect_log, child.stderr)
                    await self._start(child, child.stdin)
                    await child.wait()
            finally:
                with trio.move_on_after(EXIT_TIMEOUT_S, shield=True):
                    await child.stdin.aclose()  # this makes the engine exit
                    await child.wait()
                await child.aclose()  # noqa: ASYNC102 - it is shielded and timed inside
                self._mark_ended(_describe_status(child.status))

    def _mark_ended(self, reason: str) -> None:
        self.url, self.end_reason = "", reason
        self.ended.set()
        self.ready_or_ended.set()

    async def _start(self, child: Child, stdin: SendStream) -> None:
        line = b""
        try:
            await stdin.send_all(msgspec.json.encode(self.options) + b"\n")
            while not line.endswith(b"\n") and (chunk := await child.output.receive_some()):
                line += chunk
            report = decode(line, _EngineReport)
        except (trio.BrokenResourceError, BadJson):
            report = _EngineReport()
        self.url, self._error = report.url, report.error
        if self.url:
            self.ready_or_ended.set()
            return
        if self._error or not line.endswith(b"\n"):  # it is exiting: its own status explains more than our signal
            with trio.move_on_after(EXIT_TIMEOUT_S):
                await child.wait()
        child.kill()

    async def _collect_log(self, stderr: ReceiveStream) -> None:
        async for chunk in stderr:
            self._log = (self._log + chunk)[-LOG_TAIL_BYTES:]


def _describe_status(status: int | None) -> str:
    if status is None:
        return "it has not exited"
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _engine_environment() -> dict[str, str]:
    """Returns only the variables that the engine needs: the daemon's environment may hold keys."""
    inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    return {**inherited, "PYTHONPATH": str(Path(__file__).parents[2])}
