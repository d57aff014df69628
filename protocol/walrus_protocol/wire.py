"""The framing and the constants of the protocol: limits, codes, kinds and exit codes.

It needs only the standard library.

Both clients and the sans-I/O connection use it. A frame is a 4-byte big-endian length and that many bytes of JSON.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Literal

PROTOCOL = 1
MAX_FRAME = 16 * 1024 * 1024
"""Maximum bytes of JSON in one frame; either side may have to buffer that much for the other."""
MAX_MESSAGE = 4 * 1024 * 1024
"""Maximum bytes of a message's content as JSON."""
MAX_DOCUMENT = 256 * 1024 * 1024
"""Maximum bytes of a document to import, in UTF-8."""

_header = Struct(">I")

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL = -32603
BUSY = -32001
SHUTTING_DOWN = -32002
DENIED = -32003
NOT_FOUND = -32004
CONFLICT = -32005
UNSUPPORTED = -32006
PROVIDER = -32007
BUDGET = -32008
TIMEOUT = -32009
CANCELLED = -32010
CONFIG = -32011

Kind = Literal[
    "parse_error", "frame_too_large", "invalid_request", "method_not_found", "invalid_params", "session_busy",
    "inbox_full", "too_many_connections", "shutting_down", "from_tool", "permission", "session_not_found",
    "agent_not_found", "model_not_found", "tool_not_found", "checkpoint_not_found", "schedule_not_found",
    "session_closed", "key_reused", "already_answered", "offset_in_future", "not_available_yet", "protocol",
    "provider", "budget", "timeout", "cancelled", "config", "storage_full", "storage_failed", "bug",
]  # fmt: skip
"""A kind of error, as a type; a test compares it with KINDS."""

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_UNREACHABLE = 4
EXIT_DENIED = 5
EXIT_BUDGET = 6
EXIT_TIMEOUT = 7
EXIT_INTERRUPTED = 8
EXIT_PROVIDER = 9
EXIT_MAX_ITERATIONS = 10
EXIT_NO_ACTION = 11
EXIT_BUSY = 12
EXIT_ALREADY_RUNNING = 75
EXIT_BAD_CONFIG = 78
EXIT_CTRL_C = 130

_ERRORS: tuple[tuple[int, int, tuple[Kind, ...]], ...] = (
    (PARSE_ERROR, EXIT_USAGE, ("parse_error",)),
    (INVALID_REQUEST, EXIT_USAGE, ("frame_too_large", "invalid_request")),
    (METHOD_NOT_FOUND, EXIT_USAGE, ("method_not_found",)),
    (INVALID_PARAMS, EXIT_USAGE, ("invalid_params",)),
    (BUSY, EXIT_BUSY, ("session_busy", "inbox_full", "too_many_connections")),
    (SHUTTING_DOWN, EXIT_UNREACHABLE, ("shutting_down",)),
    (DENIED, EXIT_DENIED, ("from_tool", "permission")),
    (
        NOT_FOUND,
        EXIT_NOT_FOUND,
        (
            "session_not_found",
            "agent_not_found",
            "model_not_found",
            "tool_not_found",
            "checkpoint_not_found",
            "schedule_not_found",
        ),
    ),
    (CONFLICT, EXIT_INTERNAL, ("session_closed", "key_reused", "already_answered", "offset_in_future")),
    (UNSUPPORTED, EXIT_USAGE, ("not_available_yet", "protocol")),
    (PROVIDER, EXIT_PROVIDER, ("provider",)),
    (BUDGET, EXIT_BUDGET, ("budget",)),
    (TIMEOUT, EXIT_TIMEOUT, ("timeout",)),
    (CANCELLED, EXIT_INTERRUPTED, ("cancelled",)),
    (CONFIG, EXIT_USAGE, ("config",)),
    (INTERNAL, EXIT_INTERNAL, ("storage_full", "storage_failed", "bug")),
)
"""Each code of an error, the exit code for it, and its kinds."""
KINDS = {kind: code for code, _, kinds in _ERRORS for kind in kinds}
"""Every kind of error and its code. A closed list, because programs branch on it."""
_EXIT_BY_CODE = {code: exit_code for code, exit_code, _ in _ERRORS}
_EXIT_BY_STOP_REASON = {
    "text_response": EXIT_OK,
    "max_iterations": EXIT_MAX_ITERATIONS,
    "no_action": EXIT_NO_ACTION,
    "interrupted": EXIT_INTERRUPTED,
    "budget_exceeded": EXIT_BUDGET,
}
_INTERNAL_TURN_ERRORS = frozenset({"storage", "internal", "crashed_repeatedly"})


def exit_code_for_error(code: int, kind: str) -> int:
    """Returns the exit code of a command whose request failed."""
    if kind == "session_closed":
        return EXIT_NOT_FOUND
    return _EXIT_BY_CODE.get(code, EXIT_INTERNAL)


def exit_code_for_turn(stop_reason: str, error_kind: str | None) -> int:
    """Returns the exit code of a command whose turn ended with this stop reason and error."""
    if error_kind == "timeout":
        return EXIT_TIMEOUT
    if stop_reason == "error":
        return EXIT_INTERNAL if error_kind in _INTERNAL_TURN_ERRORS else EXIT_PROVIDER
    return _EXIT_BY_STOP_REASON.get(stop_reason, EXIT_INTERNAL)


class FrameTooLarge(Exception):
    """A frame is longer than allowed; a connection cannot be read any further after it."""

    def __init__(self, size: int, cap: int) -> None:
        super().__init__(f"a frame of {size:,} bytes is too large; a frame has at most {cap:,}")
        self.size = size


def frame(payload: bytes) -> bytes:
    """Returns `payload` with its length in front. Raises FrameTooLarge."""
    if len(payload) > MAX_FRAME:
        raise FrameTooLarge(len(payload), MAX_FRAME)
    return _header.pack(len(payload)) + payload


class FrameDecoder:
    """Converts received bytes, cut anywhere, to payloads. A pure buffer: it reads no socket."""

    def __init__(self, cap: int = MAX_FRAME) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._cap = cap

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def in_frame(self) -> bool:
        """True if a part of a frame has come and the rest has not."""
        return len(self._buffer) > self._start

    def __iter__(self) -> Iterator[bytes]:
        """Iterates over the payloads that are complete by now. Raises FrameTooLarge."""
        while (payload := self._next_payload()) is not None:
            yield payload

    def _next_payload(self) -> bytes | None:
        available = len(self._buffer) - self._start
        if available >= 4:
            (size,) = _header.unpack_from(self._buffer, self._start)
            if size > self._cap:
                raise FrameTooLarge(size, self._cap)
            if available >= 4 + size:
                begin = self._start + 4
                payload = bytes(memoryview(self._buffer)[begin : begin + size])
                self._start = begin + size
                return payload
        # The buffer is cut once a read, not once a frame: otherwise a batch of n frames would cost n².
        del self._buffer[: self._start]
        self._start = 0
        return None


# Former names: aliases for one release, then they are removed (see CHANGELOG.md).
exit_of_error = exit_code_for_error
exit_of_turn = exit_code_for_turn
Frames = FrameDecoder
