"""The probe of a heartbeat: a shell command that costs nothing, asked before a model that does."""

import codecs
import hashlib

import trio
from msgspec import Struct

from walrusd.dispatch.process_executor import build_environment, wait_and_drain
from walrusd.host.launch import SpawnFailed
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import Redaction, StreamingRedactor

DEADLINE_S = 60.0
MAX_PROBE_OUTPUT = 64 * 1024
"""Characters of its output that the agent is shown; all of it is compared."""


class ProbeFailed(Exception):
    """It did not come to an end of its own; the text is for the ledger."""


class ProbeResult(Struct, frozen=True, kw_only=True):
    exit_status: int
    output: str
    digest: str
    """Of the command, its status and its whole output."""


class ProbeRunner:
    """Runs them, with the environment of a tool. Fills the port of a heartbeat."""

    def __init__(self, spawner: Spawner, *, home: str, redact: Redaction) -> None:
        self._spawner = spawner
        self._home = home
        self._redact = redact

    async def __call__(self, command: str, folder: str) -> ProbeResult:
        """Run a command in a folder. What it leaves behind in its process group ends with it. Raises ProbeFailed."""
        ear = _OutputDigest(self._redact)
        with trio.move_on_after(DEADLINE_S):
            try:
                child = await self._spawner.spawn(
                    ("bash", "-c", command), cwd=folder, env=build_environment(self._home)
                )
            except SpawnFailed as failed:
                raise ProbeFailed(f"{failed} {failed.hint}".rstrip()) from failed
            async with child:
                return ear.finish(command, await wait_and_drain(child, ear.add))
        raise ProbeFailed(f"it had not ended after {DEADLINE_S:.0f} s, and was killed")


class _OutputDigest:
    """What a probe says: compared whole, shown in part and without secrets."""

    def __init__(self, redact: Redaction) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redactor = StreamingRedactor(redact)
        self._digest = hashlib.sha256()
        self._output = ""
        self._truncated = False

    def add(self, data: bytes | bytearray) -> None:
        self._digest.update(data)
        self._append(self._redactor.feed(self._decoder.decode(data)))

    def finish(self, command: str, exit_status: int) -> ProbeResult:
        self._append(self._redactor.feed(self._decoder.decode(b"", final=True)))
        self._append(self._redactor.finish())
        self._digest.update(f"\0{exit_status}\0{command}".encode())
        said = self._output.strip("\n") or "[nothing]"
        if self._truncated:
            said += f"\n[The rest is left out: these are the first {MAX_PROBE_OUTPUT:,} characters.]"
        return ProbeResult(exit_status=exit_status, output=said, digest=self._digest.hexdigest())

    def _append(self, text: str) -> None:
        self._truncated |= len(text) > MAX_PROBE_OUTPUT - len(self._output)
        self._output += text[: MAX_PROBE_OUTPUT - len(self._output)]
