"""The executor of process tools: the intent names a process before it does anything; its group ends with the call."""

import codecs
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

from walrus_protocol.content import ToolSchema
from walrusd.dispatch.bounded_output import BoundedOutput
from walrusd.dispatch.execution_result import ExecutionResult, error_text, milliseconds, timeout_text
from walrusd.dispatch.live_output import LiveOutput
from walrusd.host.child import Child
from walrusd.host.launch import SpawnFailed
from walrusd.host.orphan_cleanup import CALL_MARKER_VARIABLE, call_marker
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import Redaction, StreamingRedactor
from walrusd.ports import Clock, ProcessTool, ToolRequest, ToolRun

READ_BYTES = 64 * 1024
"""Bytes: what a pipe holds."""
YIELD_AFTER_BYTES = 4 * READ_BYTES
YIELD_S = 0.01
"""After so many bytes others run for so long; the pipe holds the child back meanwhile. A flood of 25 MB a second then
takes about a tenth of the loop."""
MAX_DRAIN_BYTES = 1024 * 1024
"""Bytes that are read once the process has ended: the most that a pipe can be made to hold. A process that left the
group may hold it open for ever, and write on."""

INHERITED_VARIABLES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"}
    | {"XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"}
)
"""Of walrusd's own environment, with all LC_*: what says where and who one is. The rest may hold keys."""

OnProcessOutput = Callable[[bytes | bytearray], None]


class ProcessExecutor:
    """Runs the commands of process tools."""

    def __init__(self, spawner: Spawner, *, home: str, redact: Redaction, clock: Clock) -> None:
        self._spawner = spawner
        self._home = home
        self._redact = redact
        self._clock = clock

    async def run(self, tool: ProcessTool, schema: ToolSchema, request: ToolRequest, run: ToolRun) -> ExecutionResult:
        """Raises only what `request.started` raises. Cancelling it kills the group."""
        said = BoundedOutput(schema.max_output_bytes)
        try:
            command = tool.command(run)
        except Exception as failure:  # noqa: BLE001 - `failed` tells a refusal from a bug
            return _not_started_result(said, self._redact(error_text(request, failure)))
        limit = min(schema.timeout_s, command.timeout_s or schema.timeout_s)
        running = LiveOutput(request.on_output)
        ear = _OutputCollector(said, running, self._redact)
        status: int | None = None
        began = self._clock()
        with trio.move_on_after(schema.timeout_s) as deadline:
            try:
                child = await self._spawner.spawn(
                    command.argv, cwd=command.cwd, env=self._call_environment(request), with_start_barrier=True
                )
            except SpawnFailed as failure:
                return _not_started_result(said, self._redact(f"{failure} {failure.hint}".rstrip()))
            async with child:
                await request.record_started(child.process)
                # An interrupt may have come while the intent was written; recording cannot be cancelled, so look now.
                await trio.lowlevel.checkpoint_if_cancelled()
                # What the call asks for is time for the command, whatever it took to start it.
                began, deadline.deadline = self._clock(), trio.current_time() + limit
                child.release_start_barrier()
                async with trio.open_nursery() as telling:
                    telling.start_soon(running.run)
                    status = await wait_and_drain(child, ear.feed)
                    telling.cancel_scope.cancel()
        ear.finish()
        running.flush()
        took = milliseconds(self._clock() - began)
        if status is None:
            return ExecutionResult(
                outcome="timeout", output=said, note=f"[{timeout_text(schema.name, limit)}]", duration_ms=took
            )
        return ExecutionResult(
            outcome="error" if status else "ok", output=said, note=_status_note(status, said), duration_ms=took
        )

    def _call_environment(self, request: ToolRequest) -> Mapping[str, str]:
        mark = call_marker(request.session, request.turn, request.call.id)
        return {**build_environment(self._home), CALL_MARKER_VARIABLE: mark}


class _OutputCollector:
    """What a process writes, as text without secrets, for those who want it."""

    def __init__(self, output: BoundedOutput, live: LiveOutput, redact: Redaction) -> None:
        self._output = output
        self._live = live
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redactor = StreamingRedactor(redact)

    def feed(self, data: bytes | bytearray) -> None:
        self._emit(self._redactor.feed(self._decoder.decode(data)))

    def finish(self) -> None:
        self._emit(self._redactor.feed(self._decoder.decode(b"", final=True)))
        self._emit(self._redactor.finish())

    def _emit(self, text: str) -> None:
        self._output.add(text)
        self._live.add(text)


def build_environment(home: str) -> dict[str, str]:
    """What a command is told of where it is and for whom: none of walrusd's secrets."""
    ours = {name: value for name, value in os.environ.items() if name in INHERITED_VARIABLES or name.startswith("LC_")}
    return {**ours, "TERM": "dumb", "WALRUS_HOME": home}


async def wait_and_drain(child: Child, on_output: OnProcessOutput) -> int:
    """Listen until the process ends, end what it left behind, and hear what was written by then; its exit status."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_until_eof, child.output, on_output)
        status = await child.wait()
        nursery.cancel_scope.cancel()
    child.kill()
    await _drain_pipe(child.output, on_output)
    return status


async def _read_until_eof(output: trio.abc.ReceiveStream, on_output: OnProcessOutput) -> None:
    heard = 0
    while data := await output.receive_some(READ_BYTES):
        on_output(data)
        heard += len(data)
        if heard >= YIELD_AFTER_BYTES:
            heard = 0
            await trio.sleep(YIELD_S)


async def _drain_pipe(output: trio.abc.ReceiveStream, on_output: OnProcessOutput) -> None:
    """What was written by now. To wait for more, or for the end, could mean for ever: see LEFT."""
    assert isinstance(output, trio.lowlevel.FdStream), "a child speaks through a pipe"
    left = MAX_DRAIN_BYTES
    with suppress(BlockingIOError):
        while left > 0 and (data := os.read(output.fileno(), READ_BYTES)):
            on_output(data)
            left -= len(data)
            await trio.lowlevel.checkpoint()


def _not_started_result(output: BoundedOutput, reason: str) -> ExecutionResult:
    output.add(reason)
    return ExecutionResult(outcome="error", output=output)


def _status_note(status: int, output: BoundedOutput) -> str:
    if status < 0:
        named = {number.value: number.name for number in signal.Signals}
        return f"[killed by signal {named.get(-status, -status)}]"
    if status:
        return f"[exit status {status}]"
    return "" if output.size else "[no output]"
