"""The probe of a heartbeat: a free shell command that decides whether the paid model is called."""

import codecs
import hashlib

import trio
from msgspec import Struct

from walrusd.dispatch.process_executor import build_environment, wait_and_drain
from walrusd.host.launch import SpawnFailed
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import Redaction, StreamingRedactor

DEADLINE_S = 60.0
"""Maximum seconds that a probe may run before it is killed."""
MAX_PROBE_OUTPUT = 64 * 1024
"""Maximum characters of process output that the agent is shown; the digest covers all output."""


class ProbeFailed(Exception):
    """The probe could not be started or did not finish in time; the text goes into the ledger."""


class ProbeResult(Struct, frozen=True, kw_only=True):
    exit_status: int
    output: str
    digest: str
    """The hash of the command, its exit status and its whole output."""


class ProbeRunner:
    """Runs probes with the environment of a process tool; implements RunProbe."""

    def __init__(self, spawner: Spawner, *, home: str, redact: Redaction) -> None:
        self._spawner = spawner
        self._home = home
        self._redact = redact

    async def __call__(self, command: str, folder: str) -> ProbeResult:
        """Runs a command in a folder, then kills what it left in its process group. Raises ProbeFailed."""
        output = _OutputDigest(self._redact)
        with trio.move_on_after(DEADLINE_S):
            try:
                child = await self._spawner.spawn(
                    ("bash", "-c", command), cwd=folder, env=build_environment(self._home)
                )
            except SpawnFailed as failed:
                raise ProbeFailed(f"{failed} {failed.hint}".rstrip()) from failed
            async with child:
                return output.finish(command, await wait_and_drain(child, output.add))
        raise ProbeFailed(f"it did not finish within {DEADLINE_S:.0f} s and was killed")


class _OutputDigest:
    """Collects the output of a probe: the digest covers all of it, the shown part is cut and redacted."""

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
        shown = self._output.strip("\n") or "[no output]"
        if self._truncated:
            shown += f"\n[Truncated: these are the first {MAX_PROBE_OUTPUT:,} characters.]"
        return ProbeResult(exit_status=exit_status, output=shown, digest=self._digest.hexdigest())

    def _append(self, text: str) -> None:
        self._truncated |= len(text) > MAX_PROBE_OUTPUT - len(self._output)
        self._output += text[: MAX_PROBE_OUTPUT - len(self._output)]
