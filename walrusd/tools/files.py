"""The file tools. `read` gives a model the text of a file in its workspace, some lines at a time."""

import codecs
import io
import os

import trio
from msgspec import Struct, convert

from walrus_protocol.content import ToolSchema
from walrusd.ports import ToolFailed, ToolRun
from walrusd.tools.confine import opened, resolve

MOST_LINES = 2_000
MOST_SKIPPED = 64 * 1024 * 1024
"""Bytes that are read only to count the lines before `offset`: a tenth of a second; a huge file would take minutes."""
CHUNK = 256 * 1024
"""Bytes of a skipped part that are in memory at once."""
HEADER_ROOM = 256
"""Bytes of the output kept for the line that says what is shown; of a very small output, half."""
THREADS = 8
"""Reads at once. A file system that hangs keeps these, and not the threads that others need."""


class Window(Struct, frozen=True, kw_only=True):
    """The arguments of `read`, as its schema says them."""

    path: str
    offset: int = 1
    limit: int = MOST_LINES


class Read:
    """Reads text, and nothing else, and only inside the workspace."""

    def __init__(self, home: str, max_output_bytes: int = 64 * 1024) -> None:
        """`home` is the walrus home; of it only workspace/ may be read."""
        self._home = home
        self._threads = trio.CapacityLimiter(THREADS)
        self.schema = ToolSchema(
            name="read",
            description="Read a text file of your workspace. A long file comes in parts: go on with offset.",
            parameters={
                "type": "object",
                "properties": {
                    "path": {"type": "string", "minLength": 1, "description": "Relative to the workspace."},
                    "offset": {"type": "integer", "minimum": 1, "description": "First line, from 1."},
                    "limit": {"type": "integer", "minimum": 1, "maximum": MOST_LINES, "description": "Lines."},
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
        return await trio.to_thread.run_sync(self._read, run, abandon_on_cancel=True, limiter=self._threads)

    def _read(self, run: ToolRun) -> str:
        window = convert(run.arguments, Window, strict=False)  # to JSON Schema, 2.0 is an integer
        cap = self.schema.max_output_bytes
        with (
            opened(resolve(run.workspace, window.path), self._home) as descriptor,
            open(descriptor, "rb", closefd=False) as file,
        ):
            try:
                return shown(file, window, cap - min(HEADER_ROOM, cap // 2))
            except OSError as error:
                raise ToolFailed(f"{window.path} cannot be read: {os.strerror(error.errno or 0)}.") from error


def shown(file: io.BufferedReader, window: Window, room: int) -> str:
    """The lines that the window asks for, as many as fit in `room` bytes, under a header where they are not all."""
    _skip(file, window)
    taken, cut = _take(file, window.limit, room)
    raw, last = b"".join(taken), window.offset + len(taken) - 1
    if b"\0" in raw:
        raise ToolFailed(f"{window.path} is not text: it has NUL bytes.")
    notes = [] if taken else ["the file is empty"]
    if cut:
        notes.append(f"line {last} is longer than can be shown, its rest is left out")
    if file.peek(1):
        notes.append(f"lines {window.offset} to {last}; more follows, go on with offset={last + 1}")
    elif window.offset > 1:
        notes.append(f"lines {window.offset} to {last}, the end of the file")
    try:
        text = _decode(raw, "strict", cut=cut)
    except UnicodeDecodeError:
        text = _decode(raw, "replace", cut=cut)
        notes.append("not all of it is UTF-8, \ufffd stands for what is not")
    return f"[{'; '.join(notes)}]\n{text}" if notes else text


def _skip(file: io.BufferedReader, window: Window) -> None:
    """Go to line `offset`. Raises ToolFailed where the file has no such line."""
    ended, in_line, target = 0, False, window.offset - 1
    while ended < target and (chunk := file.read(CHUNK)):
        if file.tell() > MOST_SKIPPED:
            raise ToolFailed(
                f"Line {window.offset} of {window.path} is not within its first {MOST_SKIPPED:,} bytes, "
                f"where {ended} lines end; what is further down cannot be read."
            )
        rest = chunk.split(b"\n", min(target - ended, CHUNK))  # a model's number may be larger than C's
        ended += len(rest) - 1
        in_line = not chunk.endswith(b"\n")
        if ended == target:
            file.seek(-len(rest[-1]), os.SEEK_CUR)
    if window.offset > 1 and not file.peek(1):
        raise ToolFailed(f"{window.path} has no line {window.offset}; it has {ended + in_line}.")


def _take(file: io.BufferedReader, limit: int, room: int) -> tuple[list[bytes], bool]:
    """Whole lines that fit; or one line cut short, where even the first does not, and True."""
    taken: list[bytes] = []
    while len(taken) < limit and (line := file.readline(room + 1)):
        if len(line) <= room:
            taken.append(line)
            room -= len(line)
        elif taken:
            file.seek(-len(line), os.SEEK_CUR)
            break
        else:
            return [line[:room]], True
    return taken, False


def _decode(raw: bytes, errors: str, *, cut: bool) -> str:
    """A character that the cut went through is left out; it is no sign of another encoding."""
    return codecs.getincrementaldecoder("utf-8")(errors).decode(raw, final=not cut)
