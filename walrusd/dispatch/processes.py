"""The executor of process tools: the intent names a process before it does anything; its group ends with the call."""

import codecs
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

from walrus_protocol.content import ToolSchema
from walrusd.dispatch.output import Output
from walrusd.dispatch.ran import Ran, failed, milliseconds, stopped
from walrusd.dispatch.running import RunningOutput
from walrusd.host.child import Child
from walrusd.host.launch import SpawnFailed
from walrusd.host.spawner import Spawner
from walrusd.host.survivors import MARK, mark_of
from walrusd.ports import Clock, ProcessTool, ToolRequest, ToolRun
from walrusd.redaction import Redacted, Redaction

READ = 64 * 1024
"""Bytes: what a pipe holds."""
BREATH = 4 * READ
BREATH_S = 0.01
"""After so many bytes others run for so long; the pipe holds the child back meanwhile. A flood of 25 MB a second then
takes about a tenth of the loop."""
LEFT = 1024 * 1024
"""Bytes that are read once the process has ended: the most that a pipe can be made to hold. A process that left the
group may hold it open for ever, and write on."""

PASSED_ON = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"}
    | {"XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"}
)
"""Of walrusd's own environment, with all LC_*: what says where and who one is. The rest may hold keys."""

Hear = Callable[[bytes | bytearray], None]


class Processes:
    """Runs the commands of process tools."""

    def __init__(self, spawner: Spawner, *, home: str, redact: Redaction, clock: Clock) -> None:
        self._spawner = spawner
        self._home = home
        self._redact = redact
        self._clock = clock

    async def run(self, tool: ProcessTool, schema: ToolSchema, request: ToolRequest, run: ToolRun) -> Ran:
        """Raises only what `request.started` raises. Cancelling it kills the group."""
        said = Output(schema.max_output_bytes)
        try:
            command = tool.command(run)
        except Exception as failure:  # noqa: BLE001 - `failed` tells a refusal from a bug
            return _not_run(said, self._redact(failed(request, failure)))
        limit = min(schema.timeout_s, command.timeout_s or schema.timeout_s)
        running = RunningOutput(request.say)
        ear = _Ear(said, running, self._redact)
        status: int | None = None
        began = self._clock()
        with trio.move_on_after(schema.timeout_s) as deadline:
            try:
                child = await self._spawner.spawn(
                    command.argv, cwd=command.cwd, env=self._environment(request), gated=True
                )
            except SpawnFailed as failure:
                return _not_run(said, self._redact(f"{failure} {failure.hint}".rstrip()))
            async with child:
                await request.started(child.process)
                # An interrupt may have come while the intent was written; recording cannot be cancelled, so look now.
                await trio.lowlevel.checkpoint_if_cancelled()
                # What the call asks for is time for the command, whatever it took to start it.
                began, deadline.deadline = self._clock(), trio.current_time() + limit
                child.open_gate()
                async with trio.open_nursery() as telling:
                    telling.start_soon(running.tell)
                    status = await attend(child, ear.hear)
                    telling.cancel_scope.cancel()
        ear.end()
        running.tell_now()
        took = milliseconds(self._clock() - began)
        if status is None:
            return Ran(outcome="timeout", said=said, note=f"[{stopped(schema.name, limit)}]", duration_ms=took)
        return Ran(outcome="error" if status else "ok", said=said, note=_note(status, said), duration_ms=took)

    def _environment(self, request: ToolRequest) -> Mapping[str, str]:
        mark = mark_of(request.session, request.turn, request.call.id)
        return {**environment(self._home), MARK: mark}


class _Ear:
    """What a process writes, as text without secrets, for those who want it."""

    def __init__(self, said: Output, running: RunningOutput, redact: Redaction) -> None:
        self._said = said
        self._running = running
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redacted = Redacted(redact)

    def hear(self, data: bytes | bytearray) -> None:
        self._pass_on(self._redacted.feed(self._decoder.decode(data)))

    def end(self) -> None:
        self._pass_on(self._redacted.feed(self._decoder.decode(b"", final=True)))
        self._pass_on(self._redacted.rest())

    def _pass_on(self, text: str) -> None:
        self._said.add(text)
        self._running.hear(text)


def environment(home: str) -> dict[str, str]:
    """What a command is told of where it is and for whom: none of walrusd's secrets."""
    ours = {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("LC_")}
    return {**ours, "TERM": "dumb", "WALRUS_HOME": home}


async def attend(child: Child, hear: Hear) -> int:
    """Listen until the process ends, end what it left behind, and hear what was written by then; its exit status."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen, child.output, hear)
        status = await child.wait()
        nursery.cancel_scope.cancel()
    child.kill()
    await _hear_the_rest(child.output, hear)
    return status


async def _listen(output: trio.abc.ReceiveStream, hear: Hear) -> None:
    heard = 0
    while data := await output.receive_some(READ):
        hear(data)
        heard += len(data)
        if heard >= BREATH:
            heard = 0
            await trio.sleep(BREATH_S)


async def _hear_the_rest(output: trio.abc.ReceiveStream, hear: Hear) -> None:
    """What was written by now. To wait for more, or for the end, could mean for ever: see LEFT."""
    assert isinstance(output, trio.lowlevel.FdStream), "a child speaks through a pipe"
    left = LEFT
    with suppress(BlockingIOError):
        while left > 0 and (data := os.read(output.fileno(), READ)):
            hear(data)
            left -= len(data)
            await trio.lowlevel.checkpoint()


def _not_run(said: Output, why: str) -> Ran:
    said.add(why)
    return Ran(outcome="error", said=said)


def _note(status: int, said: Output) -> str:
    if status < 0:
        named = {number.value: number.name for number in signal.Signals}
        return f"[killed by signal {named.get(-status, -status)}]"
    if status:
        return f"[exit status {status}]"
    return "" if said.size else "[no output]"
