"""The file tools. `read` gives a model the text of a file in its workspace, some lines at a time."""

import codecs
import io
import os

import trio
from msgspec import Struct, convert

from walrus_protocol.content import ToolSchema
from walrusd.ports import ToolFailed, ToolRun
from walrusd.tools.workspace_open import open_confined, resolve_path

MAX_LINES = 2_000
MAX_SKIPPED_BYTES = 64 * 1024 * 1024
"""Bytes that are read only to count the lines before `offset`: a tenth of a second; a huge file would take minutes."""
SKIP_CHUNK_BYTES = 256 * 1024
"""Bytes of a skipped part that are in memory at once."""
HEADER_BYTES = 256
"""Bytes of the output kept for the line that says what is shown; of a very small output, half."""
MAX_CONCURRENT_READS = 8
"""Reads at once. A file system that hangs keeps these, and not the threads that others need."""


class ReadArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `read`, as its schema says them."""

    path: str
    offset: int = 1
    limit: int = MAX_LINES


class ReadTool:
    """Reads text, and nothing else, and only inside the workspace."""

    def __init__(self, home: str, max_output_bytes: int = 64 * 1024) -> None:
        """`home` is the walrus home; of it only workspace/ may be read."""
        self._home = home
        self._thread_limiter = trio.CapacityLimiter(MAX_CONCURRENT_READS)
        self.schema = ToolSchema(
            name="read",
            description="Read a text file of your workspace. A long file comes in parts: go on with offset.",
            parameters={
                "type": "object",
                "properties": {
                    "path": {"type": "string", "minLength": 1, "description": "Relative to the workspace."},
                    "offset": {"type": "integer", "minimum": 1, "description": "First line, from 1."},
                    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LINES, "description": "Lines."},
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
        # Left behind when cancelled: the thread changes nothing, and a file system may take for ever to answer.
        return await trio.to_thread.run_sync(self._read, run, abandon_on_cancel=True, limiter=self._thread_limiter)

    def _read(self, run: ToolRun) -> str:
        window = convert(run.arguments, ReadArguments, strict=False)  # to JSON Schema, 2.0 is an integer
        cap = self.schema.max_output_bytes
        with (
            open_confined(resolve_path(run.workspace, window.path), self._home) as descriptor,
            open(descriptor, "rb", closefd=False) as file,
        ):
            try:
                return format_lines(file, window, cap - min(HEADER_BYTES, cap // 2))
            except OSError as error:
                raise ToolFailed(f"{window.path} cannot be read: {os.strerror(error.errno or 0)}.") from error


def format_lines(file: io.BufferedReader, arguments: ReadArguments, max_bytes: int) -> str:
    """The lines that the window asks for, as many as fit in `room` bytes, under a header where they are not all."""
    _seek_to_line(file, arguments)
    taken, cut = _read_lines(file, arguments.limit, max_bytes)
    raw, last = b"".join(taken), arguments.offset + len(taken) - 1
    if b"\0" in raw:
        raise ToolFailed(f"{arguments.path} is not text: it has NUL bytes.")
    notes = [] if taken else ["the file is empty"]
    if cut:
        notes.append(f"line {last} is longer than can be shown, its rest is left out")
    if file.peek(1):
        notes.append(f"lines {arguments.offset} to {last}; more follows, go on with offset={last + 1}")
    elif arguments.offset > 1:
        notes.append(f"lines {arguments.offset} to {last}, the end of the file")
    try:
        text = _decode(raw, "strict", cut=cut)
    except UnicodeDecodeError:
        text = _decode(raw, "replace", cut=cut)
        notes.append("not all of it is UTF-8, \ufffd stands for what is not")
    return f"[{'; '.join(notes)}]\n{text}" if notes else text


def _seek_to_line(file: io.BufferedReader, arguments: ReadArguments) -> None:
    """Go to line `offset`. Raises ToolFailed where the file has no such line."""
    ended, in_line, target = 0, False, arguments.offset - 1
    while ended < target and (chunk := file.read(SKIP_CHUNK_BYTES)):
        if file.tell() > MAX_SKIPPED_BYTES:
            raise ToolFailed(
                f"Line {arguments.offset} of {arguments.path} is not within its first {MAX_SKIPPED_BYTES:,} bytes, "
                f"where {ended} lines end; what is further down cannot be read."
            )
        rest = chunk.split(b"\n", min(target - ended, SKIP_CHUNK_BYTES))  # a model's number may be larger than C's
        ended += len(rest) - 1
        in_line = not chunk.endswith(b"\n")
        if ended == target:
            file.seek(-len(rest[-1]), os.SEEK_CUR)
    if arguments.offset > 1 and not file.peek(1):
        raise ToolFailed(f"{arguments.path} has no line {arguments.offset}; it has {ended + in_line}.")


def _read_lines(file: io.BufferedReader, limit: int, max_bytes: int) -> tuple[list[bytes], bool]:
    """Whole lines that fit; or one line cut short, where even the first does not, and True."""
    taken: list[bytes] = []
    while len(taken) < limit and (line := file.readline(max_bytes + 1)):
        if len(line) <= max_bytes:
            taken.append(line)
            max_bytes -= len(line)
        elif taken:
            file.seek(-len(line), os.SEEK_CUR)
            break
        else:
            return [line[:max_bytes]], True
    return taken, False


def _decode(raw: bytes, errors: str, *, cut: bool) -> str:
    """A character that the cut went through is left out; it is no sign of another encoding."""
    return codecs.getincrementaldecoder("utf-8")(errors).decode(raw, final=not cut)
