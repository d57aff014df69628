"""The probe of a heartbeat: a free shell command that decides whether the paid model is called."""

import hashlib

import trio
from msgspec import Struct

from walrusd.dispatch.process_executor import build_environment, wait_and_drain
from walrusd.host.launch import SpawnFailed
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import RedactingDecoder, Redaction

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


async def run_probe(spawner: Spawner, home: str, redact: Redaction, command: str, folder: str) -> ProbeResult:
    """Runs a command in a folder, then kills what it left in its process group. Raises ProbeFailed.

    It has the environment of a process tool.
    """
    output = _OutputDigest(redact)
    with trio.move_on_after(DEADLINE_S):
        try:
            child = await spawner.spawn(("bash", "-c", command), cwd=folder, env=build_environment(home))
        except SpawnFailed as failed:
            raise ProbeFailed(f"{failed} {failed.hint}".rstrip()) from failed
        async with child:
            return output.finish(command, await wait_and_drain(child, output.add))
    raise ProbeFailed(f"it did not finish within {DEADLINE_S:.0f} s and was killed")


class _OutputDigest:
    """Collects the output of a probe: the digest covers all of it, the shown part is cut and redacted."""

    def __init__(self, redact: Redaction) -> None:
        self._decoder = RedactingDecoder(redact)
        self._digest = hashlib.sha256()
        self._output = ""
        self._truncated = False

    def add(self, data: bytes | bytearray) -> None:
        self._digest.update(data)
        self._append(self._decoder.feed(data))

    def finish(self, command: str, exit_status: int) -> ProbeResult:
        self._append(self._decoder.finish())
        self._digest.update(f"\0{exit_status}\0{command}".encode())
        shown = self._output.strip("\n") or "[no output]"
        if self._truncated:
            shown += f"\n[Truncated: these are the first {MAX_PROBE_OUTPUT:,} characters.]"
        return ProbeResult(exit_status=exit_status, output=shown, digest=self._digest.hexdigest())

    def _append(self, text: str) -> None:
        self._truncated |= len(text) > MAX_PROBE_OUTPUT - len(self._output)
        self._output += text[: MAX_PROBE_OUTPUT - len(self._output)]
