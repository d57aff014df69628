"""Executes process tools: records the process before it does anything; kills its group after the call."""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

from walrus_protocol.content import Outcome, ToolSchema
from walrusd.dispatch.bounded_output import BoundedOutput
from walrusd.dispatch.execution_result import ExecutionResult, error_text, milliseconds, timeout_text
from walrusd.dispatch.live_output import LiveOutput
from walrusd.host.child import Child
from walrusd.host.launch import SpawnFailed
from walrusd.host.orphan_cleanup import CALL_MARKER_VARIABLE, call_marker
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import RedactingDecoder, Redaction
from walrusd.ports import Clock, ProcessTool, ToolRequest, ToolRun

READ_BYTES = 64 * 1024
"""Bytes read at once: the capacity of a pipe."""
YIELD_AFTER_BYTES = 4 * READ_BYTES
"""Bytes read before the reader yields to other tasks."""
YIELD_S = 0.01
"""Seconds that the reader yields; the full pipe blocks the child meanwhile.

A flood of 25 MB a second then takes about a tenth of the loop.
"""
MAX_DRAIN_BYTES = 1024 * 1024
"""Maximum bytes read after the process has ended: the largest capacity of a pipe.

A process that left the group may keep the pipe open forever and continue to write.
"""

INHERITED_VARIABLES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"}
    | {"XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"}
)
"""Variables of walrusd's environment that a command inherits, besides all LC_*.

The others may hold keys.
"""

OnProcessOutput = Callable[[bytes | bytearray], None]


class ProcessExecutor:
    """Runs the commands of process tools."""

    def __init__(self, spawner: Spawner, *, home: str, redact: Redaction, clock: Clock) -> None:
        self._spawner = spawner
        self._home = home
        self._redact = redact
        self._clock = clock

    async def run(self, tool: ProcessTool, schema: ToolSchema, request: ToolRequest, run: ToolRun) -> ExecutionResult:
        """Runs the command of a process tool. Raises only what `request.record_started` raises.

        Cancelling it kills the process group.
        """
        output = BoundedOutput(schema.max_output_bytes)
        try:
            command = tool.command(run)
        except Exception as failure:  # noqa: BLE001 - `error_text` logs bugs
            return _not_started_result(output, self._redact(error_text(request, failure)))
        limit = min(schema.timeout_s, command.timeout_s or schema.timeout_s)
        live = LiveOutput(request.on_output)
        decoder = RedactingDecoder(self._redact)

        def add_output(text: str) -> None:
            output.add(text)
            live.add(text)

        status: int | None = None
        began = self._clock()
        with trio.move_on_after(schema.timeout_s) as deadline:
            try:
                child = await self._spawner.spawn(
                    command.argv, cwd=command.cwd, env=self._call_environment(request), with_start_barrier=True
                )
            except SpawnFailed as failure:
                return _not_started_result(output, self._redact(f"{failure} {failure.hint}".rstrip()))
            async with child:
                await request.record_started(child.process)
                # An interrupt may have come while the start was recorded; recording cannot be cancelled, so check now.
                await trio.lowlevel.checkpoint_if_cancelled()
                # The time that the call asks for is for the command alone, without the time to start it.
                began, deadline.deadline = self._clock(), trio.current_time() + limit
                child.release_start_barrier()
                async with trio.open_nursery() as live_nursery:
                    live_nursery.start_soon(live.run)
                    status = await wait_and_drain(child, lambda data: add_output(decoder.feed(data)))
                    live_nursery.cancel_scope.cancel()
        add_output(decoder.finish())
        live.flush()
        outcome: Outcome
        if status is None:
            outcome, note = "timeout", f"[{timeout_text(schema.name, limit)}]"
        else:
            outcome, note = "error" if status else "ok", _status_note(status, output)
        return ExecutionResult(
            outcome=outcome, output=output, note=note, duration_ms=milliseconds(self._clock() - began)
        )

    def _call_environment(self, request: ToolRequest) -> Mapping[str, str]:
        marker = call_marker(request.session, request.turn, request.call.id)
        return {**build_environment(self._home), CALL_MARKER_VARIABLE: marker}


def build_environment(home: str) -> dict[str, str]:
    """Returns the environment of a command, without walrusd's secrets."""
    inherited = {
        name: value for name, value in os.environ.items() if name in INHERITED_VARIABLES or name.startswith("LC_")
    }
    return {**inherited, "TERM": "dumb", "WALRUS_HOME": home}


async def wait_and_drain(child: Child, on_output: OnProcessOutput) -> int:
    """Reads output until the process ends, kills its group, drains the pipe and returns the exit status."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_until_eof, child.output, on_output)
        status = await child.wait()
        nursery.cancel_scope.cancel()
    child.kill()
    await _drain_pipe(child.output, on_output)
    return status


async def _read_until_eof(output: trio.abc.ReceiveStream, on_output: OnProcessOutput) -> None:
    read_since_yield = 0
    while data := await output.receive_some(READ_BYTES):
        on_output(data)
        read_since_yield += len(data)
        if read_since_yield >= YIELD_AFTER_BYTES:
            read_since_yield = 0
            await trio.sleep(YIELD_S)


async def _drain_pipe(output: trio.lowlevel.FdStream, on_output: OnProcessOutput) -> None:
    """Reads only what is in the pipe now; waiting for its end could take for ever: see MAX_DRAIN_BYTES."""
    remaining = MAX_DRAIN_BYTES
    with suppress(BlockingIOError):
        while remaining > 0 and (data := os.read(output.fileno(), READ_BYTES)):
            on_output(data)
            remaining -= len(data)
            await trio.lowlevel.checkpoint()


def _not_started_result(output: BoundedOutput, reason: str) -> ExecutionResult:
    output.add(reason)
    return ExecutionResult(outcome="error", output=output)


def _status_note(status: int, output: BoundedOutput) -> str:
    if status < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"[killed by signal {names.get(-status, -status)}]"
    if status:
        return f"[exit status {status}]"
    return "" if output.size else "[no output]"
