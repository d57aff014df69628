"""The probe of a heartbeat: a shell command that costs nothing, asked before a model that does."""

import codecs
import hashlib

import trio
from msgspec import Struct

from walrusd.dispatch.processes import attend, environment
from walrusd.host.launch import SpawnFailed
from walrusd.host.spawner import Spawner
from walrusd.redaction import Redacted, Redaction

DEADLINE_S = 60.0
SAID = 64 * 1024
"""Characters of its output that the agent is shown; all of it is compared."""


class ProbeFailed(Exception):
    """It did not come to an end of its own; the text is for the ledger."""


class Probed(Struct, frozen=True, kw_only=True):
    status: int
    said: str
    digest: str
    """Of the command, its status and its whole output."""


class Probes:
    """Runs them, with the environment of a tool. Fills the port of a heartbeat."""

    def __init__(self, spawner: Spawner, *, home: str, redact: Redaction) -> None:
        self._spawner = spawner
        self._home = home
        self._redact = redact

    async def __call__(self, command: str, folder: str) -> Probed:
        """Run a command in a folder. What it leaves behind in its process group ends with it. Raises ProbeFailed."""
        ear = _Ear(self._redact)
        with trio.move_on_after(DEADLINE_S):
            try:
                child = await self._spawner.spawn(("bash", "-c", command), cwd=folder, env=environment(self._home))
            except SpawnFailed as failed:
                raise ProbeFailed(f"{failed} {failed.hint}".rstrip()) from failed
            async with child:
                return ear.heard(command, await attend(child, ear.hear))
        raise ProbeFailed(f"it had not ended after {DEADLINE_S:.0f} s, and was killed")


class _Ear:
    """What a probe says: compared whole, shown in part and without secrets."""

    def __init__(self, redact: Redaction) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redacted = Redacted(redact)
        self._digest = hashlib.sha256()
        self._said = ""
        self._more = False

    def hear(self, data: bytes | bytearray) -> None:
        self._digest.update(data)
        self._keep(self._redacted.feed(self._decoder.decode(data)))

    def heard(self, command: str, status: int) -> Probed:
        self._keep(self._redacted.feed(self._decoder.decode(b"", final=True)))
        self._keep(self._redacted.rest())
        self._digest.update(f"\0{status}\0{command}".encode())
        said = self._said.strip("\n") or "[nothing]"
        if self._more:
            said += f"\n[The rest is left out: these are the first {SAID:,} characters.]"
        return Probed(status=status, said=said, digest=self._digest.hexdigest())

    def _keep(self, text: str) -> None:
        self._more |= len(text) > SAID - len(self._said)
        self._said += text[: SAID - len(self._said)]
