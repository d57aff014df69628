"""The outgoing queue of one connection: bounded, with one flusher that joins frames into few sends."""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio

MAX_FRAMES = 1024
"""Maximum frames of an outbox that is not full."""
MAX_BYTES = 8 * 1024 * 1024
"""Maximum bytes of an outbox that is not full; an empty one takes a message of any legal size."""
MAX_SEND_BYTES = 256 * 1024
"""Maximum bytes joined for one send: a socket's buffer takes less, so joining more only copies."""
COALESCE_WINDOW_S = 0.0001
"""Seconds between frames below which they are queued and sent together: a send costs more."""


class Outbox:
    """A queue of frames, sent in order.

    Callers await `wait_capacity` before `enqueue`; a response that is ready may be queued without.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.paging_lock = trio.Lock()
        """Held by the request that is reading and sending a page of the log."""
        self._frames: deque[bytes | memoryview] = deque()
        self._bytes = 0
        self._last_frame_at = 0.0
        self._drained = trio.lowlevel.ParkingLot()
        self._blocked = trio.Event()

    def try_send_direct(self, frame: bytes) -> bool:
        """Sends a frame at once; returns False without sending if frames come fast enough to join."""
        now = time.perf_counter()
        previous, self._last_frame_at = self._last_frame_at, now
        if self._frames or now - previous < COALESCE_WINDOW_S:
            return False
        self._frames.append(frame)
        self._bytes += len(frame)
        with suppress(trio.BrokenResourceError):  # the reader of the connection gets the same error
            self.flush_now()
        return True

    @property
    def is_full(self) -> bool:
        return len(self._frames) >= MAX_FRAMES or self._bytes >= MAX_BYTES

    async def wait_capacity(self) -> None:
        """Waits until the outbox is not full. A slow peer delays only its own requests.

        Raises trio.BrokenResourceError if the peer has disconnected.
        """
        while self.is_full:
            self.flush_now()  # frames that were only queued would never be sent
            if self.is_full:
                await self._drained.park()

    def enqueue(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)

    def flush_now(self) -> None:
        """Sends as much as the socket takes now, without waiting; the flusher sends the rest.

        Raises trio.BrokenResourceError if the peer has disconnected.
        """
        while self._frames:
            data = self._frames.popleft()
            if self._frames:
                data = self._join_next(data)
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise trio.BrokenResourceError("the peer has disconnected") from error
            self._bytes -= sent
            if sent < len(data):
                self._frames.appendleft(memoryview(data)[sent:])  # the rest of a large frame is not copied at each send
                self._blocked.set()
                return
        self._drained.unpark_all()

    async def run_flusher(self, on_all_sent: Callable[[], object]) -> None:
        """Sends what `flush_now` could not, until cancelled; calls `on_all_sent` when the queue is empty.

        Raises trio.BrokenResourceError if the peer has disconnected.
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
        """Returns whether frames are waiting to be sent."""
        return bool(self._frames)

    def _join_next(self, frame: bytes | memoryview) -> bytes:
        """Returns the frame joined with those behind it that fit into the same send."""
        parts, size = [frame], len(frame)
        while self._frames and size + len(self._frames[0]) <= MAX_SEND_BYTES:
            part = self._frames.popleft()
            parts.append(part)
            size += len(part)
        return b"".join(parts)
