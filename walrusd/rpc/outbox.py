"""What goes out on one connection: a bounded queue of frames with one flusher, joined into as few sends as can be."""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio

MAX_FRAMES = 1024
MAX_BYTES = 8 * 1024 * 1024
"""Whichever comes first makes an outbox full; an empty one takes a message of any legal size."""
MAX_SEND_BYTES = 256 * 1024
"""Bytes joined for one send: more than a socket's buffer takes, so joining more would only copy."""
COALESCE_WINDOW_S = 0.0001
"""Frames this near to each other are sent together: a send costs more than a place in the queue."""


class Outbox:
    """Frames in the order they were put. Whoever puts waits for `room` first; a reply that is ready may just be put."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.paging_lock = trio.Lock()
        """Held by the request that has a page of the log to send."""
        self._frames: deque[bytes | memoryview] = deque()
        self._bytes = 0
        self._last_frame_at = 0.0
        self._drained = trio.lowlevel.ParkingLot()
        self._blocked = trio.Event()

    def try_send_direct(self, frame: bytes) -> bool:
        """Send a frame past the queue; False, and nothing is sent, where frames come so fast that joining them pays."""
        now = time.perf_counter()
        passed, self._last_frame_at = self._last_frame_at, now
        if self._frames or now - passed < COALESCE_WINDOW_S:
            return False
        self.enqueue(frame)
        with suppress(trio.BrokenResourceError):  # whoever reads the connection meets it too
            self.flush_now()
        return True

    @property
    def is_full(self) -> bool:
        return len(self._frames) >= MAX_FRAMES or self._bytes >= MAX_BYTES

    async def wait_capacity(self) -> None:
        """Wait until there is room. The peer decides how long: nothing but its own requests waits here.

        Raises trio.BrokenResourceError where the peer is gone.
        """
        if self.is_full:
            self.flush_now()  # what was only put would wait for ever
        while self.is_full:
            await self._drained.park()

    def enqueue(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)

    def flush_now(self) -> None:
        """Send what the socket takes now, without waiting; the flusher sends the rest.

        Raises trio.BrokenResourceError where the peer is gone.
        """
        while self._frames:
            data = self._join_frames()
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError as gone:
                raise trio.BrokenResourceError("the peer is gone") from gone
            self._bytes -= sent
            if sent < len(data):
                self._frames.appendleft(memoryview(data)[sent:])  # a large frame's rest is not copied at each send
                self._blocked.set()
                return
        self._drained.unpark_all()

    async def run_flusher(self, on_all_sent: Callable[[], object]) -> None:
        """Send what `push` could not, until cancelled, and tell when nothing is left.

        Raises trio.BrokenResourceError where the peer is gone.
        """
        while True:
            await self._blocked.wait()
            self._blocked = trio.Event()
            await trio.lowlevel.wait_writable(self._fd)
            self.flush_now()
            if not self._frames:
                on_all_sent()

    @property
    def has_pending(self) -> bool:
        """Whether something is not sent yet."""
        return bool(self._frames)

    def _join_frames(self) -> bytes | memoryview:
        parts = [self._frames.popleft()]
        size = len(parts[0])
        while self._frames and size + len(self._frames[0]) <= MAX_SEND_BYTES:
            part = self._frames.popleft()
            parts.append(part)
            size += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
