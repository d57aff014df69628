"""A child as whoever asked for it holds it: its pipes, its end, and the means to end it."""

import os
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio
from trio.abc import ReceiveStream, SendStream

from walrusd.host.launch import SpawnedProcess
from walrusd.host.process_group import ProcessGroup

EXIT_TIMEOUT_S = 5.0
"""How long a killed process may take to end: it waits for nothing then but the kernel, which may wait for a disk."""


class Child:
    """A process with pipes to it. Leaving it (async with) kills what is left of its group.

    `output` may outlast the process: one that it has left behind may hold the other end.
    """

    def __init__(
        self,
        spawned: SpawnedProcess,
        group: ProcessGroup,
        *,
        kill_group: Callable[[ProcessGroup], None],
        release_and_reap: Callable[[ProcessGroup], trio.Event],
    ) -> None:
        """`end` kills the group and the session, `bury` reaps the leader soon and then sets the event."""
        self.pid = group.pid
        self.process = group.process
        self.stdin: SendStream | None = None
        """Where a pipe was asked for; from the opening of the gate on."""
        self._output = trio.lowlevel.FdStream(spawned.output)
        self._stderr = None if spawned.stderr is None else trio.lowlevel.FdStream(spawned.stderr)
        self._start_barrier = trio.lowlevel.FdStream(spawned.start_barrier)
        self._takes_input = spawned.takes_input
        self._pidfd = spawned.pidfd
        self.status: int | None = None
        """How it ended, once somebody has waited for that: the exit status, or minus the signal."""
        self._wait_lock = trio.Lock()
        self._group = group
        self._kill_group = kill_group
        self._release_and_reap = release_and_reap

    @property
    def output(self) -> ReceiveStream:
        """What it says on stdout, and on stderr unless that was asked for apart."""
        return self._output

    @property
    def stderr(self) -> ReceiveStream | None:
        return self._stderr

    def release_start_barrier(self) -> None:
        """Let it become the program that was ordered. Without effect on one that was killed before."""
        with suppress(BrokenPipeError):
            os.write(self._start_barrier.fileno(), b"\n")
        if self._takes_input:
            self.stdin = self._start_barrier
        else:
            self._start_barrier.close()

    async def wait(self) -> int:
        """The status, when there is one; any number of tasks may wait.

        Raises ClosedResourceError where the child was closed before its end was known.
        """
        async with self._wait_lock:
            if self.status is None:
                if self._pidfd < 0:
                    raise trio.ClosedResourceError
                await trio.lowlevel.wait_readable(self._pidfd)
                self.status = _exit_status(self._pidfd)
        return self.status

    def kill(self) -> None:
        """SIGKILL to everything in its group, now, and to everything in its session."""
        self._kill_group(self._group)

    def discard(self) -> None:
        """For a caller that has gone: kill it and close, without waiting for its end."""
        self.kill()
        self._close()

    async def aclose(self) -> None:
        """Kill what is left of its group, and return when its leader is reaped. Shielded, and timed."""
        with trio.CancelScope(shield=True):
            self.kill()
            with trio.move_on_after(EXIT_TIMEOUT_S):
                if self._pidfd >= 0:
                    await self.wait()
            buried = self._close()
            with trio.move_on_after(EXIT_TIMEOUT_S):
                await buried.wait()

    def _close(self) -> trio.Event:
        for pipe in (self._start_barrier, self._output, self._stderr):
            if pipe is not None:
                pipe.close()
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        return self._release_and_reap(self._group)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()


def _exit_status(pidfd: int) -> int:
    """Of a process that has ended. It stays unreaped, so that its number stays its own."""
    ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    assert ended is not None, "only WNOHANG answers nothing"
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
