"""The file tools: `read` returns the text of a file in the agent's workspace, in parts if it is long."""

import codecs
import io
import os

import trio
from msgspec import Struct, convert

from walrus_config.schema import ToolSettings
from walrus_protocol.content import ToolSchema
from walrusd.ports import ToolFailed, ToolRun
from walrusd.tools.spec import ToolDeps, ToolSpec
from walrusd.tools.workspace_open import open_confined, resolve_path

MAX_OUTPUT_BYTES = 64 * 1024
"""Maximum bytes of one read, if walrus.toml does not set another limit."""
MAX_LINES = 2_000
"""Maximum lines returned by one read."""
MAX_SKIPPED_BYTES = 64 * 1024 * 1024
"""Maximum bytes read to count the lines before `offset`: a tenth of a second, not minutes."""
SKIP_CHUNK_BYTES = 256 * 1024
"""Bytes of a skipped part that are in memory at once."""
HEADER_BYTES = 256
"""Bytes of the output reserved for the header line; half of the output if that is very small."""
MAX_CONCURRENT_READS = 8
"""Maximum concurrent reads: a hanging file system blocks only these threads, not all."""


class ReadArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `read`, as its schema defines them."""

    path: str
    offset: int = 1
    limit: int = MAX_LINES


class ReadTool:
    """The read tool: reads text files inside the workspace, and nothing else."""

    def __init__(self, home: str, max_output_bytes: int = MAX_OUTPUT_BYTES) -> None:
        """`home` is the walrus home; only workspace/ in it may be read."""
        self._home = home
        self._thread_limiter = trio.CapacityLimiter(MAX_CONCURRENT_READS)
        self.schema = ToolSchema(
            name="read",
            description="Read a text file in your workspace. A long file comes in parts: continue with offset.",
            parameters={
                "type": "object",
                "properties": {
                    "path": {"type": "string", "minLength": 1, "description": "Relative to the workspace."},
                    "offset": {"type": "integer", "minimum": 1, "description": "First line; lines count from 1."},
                    "limit": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": MAX_LINES,
                        "description": "Maximum number of lines.",
                    },
                },
                "required": ["path"],
                "additionalProperties": False,
            },
            read_only=True,
            idempotent=True,
            timeout_s=30.0,
            max_output_bytes=max_output_bytes,
        )

    async def execute(self, run: ToolRun) -> str:
        # The thread is abandoned on cancellation: it changes nothing, and a file system may never answer.
        return await trio.to_thread.run_sync(self._read, run, abandon_on_cancel=True, limiter=self._thread_limiter)

    def _read(self, run: ToolRun) -> str:
        arguments = convert(run.arguments, ReadArguments, strict=False)  # in JSON Schema 2.0 is an integer
        cap = self.schema.max_output_bytes
        with (
            open_confined(resolve_path(run.workspace, arguments.path), self._home) as descriptor,
            open(descriptor, "rb", closefd=False) as file,
        ):
            try:
                return format_lines(file, arguments, cap - min(HEADER_BYTES, cap // 2))
            except OSError as error:
                raise ToolFailed(f"{arguments.path} cannot be read: {os.strerror(error.errno or 0)}.") from error


def format_lines(file: io.BufferedReader, arguments: ReadArguments, max_bytes: int) -> str:
    """Returns the requested lines that fit in `max_bytes`, with a header if they are not the whole file."""
    _seek_to_line(file, arguments)
    lines, cut = _read_lines(file, arguments.limit, max_bytes)
    raw, last = b"".join(lines), arguments.offset + len(lines) - 1
    if b"\0" in raw:
        raise ToolFailed(f"{arguments.path} is not text: it contains NUL bytes.")
    notes = [] if lines else ["the file is empty"]
    if cut:
        notes.append(f"line {last} is too long to show, the rest of it is omitted")
    if file.peek(1):
        notes.append(f"lines {arguments.offset} to {last}; there are more, continue with offset={last + 1}")
    elif arguments.offset > 1:
        notes.append(f"lines {arguments.offset} to {last}, the end of the file")
    try:
        text = _decode(raw, "strict", cut=cut)
    except UnicodeDecodeError:
        text = _decode(raw, "replace", cut=cut)
        notes.append("the file is not valid UTF-8, \ufffd replaces invalid bytes")
    return f"[{'; '.join(notes)}]\n{text}" if notes else text


def _seek_to_line(file: io.BufferedReader, arguments: ReadArguments) -> None:
    """Moves to line `offset`. Raises ToolFailed if the file has no such line, or if it is too far down."""
    skipped, in_line, target = 0, False, arguments.offset - 1
    while skipped < target and (chunk := file.read(SKIP_CHUNK_BYTES)):
        if file.tell() > MAX_SKIPPED_BYTES:
            raise ToolFailed(
                f"Line {arguments.offset} of {arguments.path} is not in its first {MAX_SKIPPED_BYTES:,} bytes, which "
                f"end after line {skipped}. Lines below them cannot be read."
            )
        rest = chunk.split(b"\n", min(target - skipped, SKIP_CHUNK_BYTES))  # an offset may not fit in a C integer
        skipped += len(rest) - 1
        in_line = not chunk.endswith(b"\n")
        if skipped == target:
            file.seek(-len(rest[-1]), os.SEEK_CUR)
    if arguments.offset > 1 and not file.peek(1):
        raise ToolFailed(f"{arguments.path} has no line {arguments.offset}; it has {skipped + in_line} lines.")


def _read_lines(file: io.BufferedReader, limit: int, max_bytes: int) -> tuple[list[bytes], bool]:
    """Returns the whole lines that fit, and False; or the first line, cut, and True if it does not fit."""
    lines: list[bytes] = []
    while len(lines) < limit and (line := file.readline(max_bytes + 1)):
        if len(line) <= max_bytes:
            lines.append(line)
            max_bytes -= len(line)
        elif lines:
            file.seek(-len(line), os.SEEK_CUR)
            break
        else:
            return [line[:max_bytes]], True
    return lines, False


def _decode(raw: bytes, errors: str, *, cut: bool) -> str:
    """Decodes UTF-8; if the text was cut, an incomplete character at its end is dropped without an error."""
    return codecs.getincrementaldecoder("utf-8")(errors).decode(raw, final=not cut)


def _build(deps: ToolDeps, settings: ToolSettings) -> ReadTool:
    return ReadTool(deps.home, settings.max_output_bytes or MAX_OUTPUT_BYTES)


READ = ToolSpec(name="read", build=_build)
