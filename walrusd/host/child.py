"""A child process as its caller holds it: its pipes, its exit status and the means to kill it."""

import os
from collections.abc import Callable
from contextlib import suppress

import trio
from trio.abc import AsyncResource, SendStream

from walrusd.host.kill import ProcessGroup
from walrusd.host.launch import SpawnedProcess

EXIT_TIMEOUT_S = 5.0
"""Seconds that a killed process may take to exit; only the kernel, waiting for a disk, can delay that."""


class Child(AsyncResource):
    """A child process with its pipes. Leaving it (async with) kills the remaining processes of its group.

    `output` may stay open after the process has exited, because a process that it left behind may hold the other end.
    """

    def __init__(
        self,
        spawned: SpawnedProcess,
        group: ProcessGroup,
        *,
        kill_group: Callable[[ProcessGroup], None],
        release_and_reap: Callable[[ProcessGroup], trio.Event],
    ) -> None:
        """Takes over the process. `kill_group` kills its group and its session.

        `release_and_reap` reaps the leader, then sets the event that it returned.
        """
        self.pid = group.pid
        self.process = group.process
        self.stdin: SendStream | None = None
        """The pipe to the program; None until the start barrier is released, and if no pipe was requested."""
        self.output = trio.lowlevel.FdStream(spawned.output)
        """The process output: stdout, and stderr too unless a pipe of its own was requested for it."""
        self.stderr = None if spawned.stderr is None else trio.lowlevel.FdStream(spawned.stderr)
        self._start_barrier = trio.lowlevel.FdStream(spawned.start_barrier)
        self._takes_input = spawned.takes_input
        self._pidfd = spawned.pidfd
        self.status: int | None = None
        """The exit status, or minus the number of the signal that killed it; None before `wait` has returned."""
        self._wait_lock = trio.Lock()
        self._group = group
        self._kill_group = kill_group
        self._release_and_reap = release_and_reap

    def release_start_barrier(self) -> None:
        """Lets the child exec the requested program. No effect on a child that was killed."""
        with suppress(BrokenPipeError):
            os.write(self._start_barrier.fileno(), b"\n")
        if self._takes_input:
            self.stdin = self._start_barrier
        else:
            self._start_barrier.close()

    async def wait(self) -> int:
        """Waits for the exit and returns `status`; any number of tasks may wait.

        Raises ClosedResourceError if the child was closed before its exit status was known.
        """
        async with self._wait_lock:
            if self.status is None:
                if self._pidfd < 0:
                    raise trio.ClosedResourceError
                await trio.lowlevel.wait_readable(self._pidfd)
                self.status = _exit_status(self._pidfd)
        return self.status

    def kill(self) -> None:
        """Sends SIGKILL to every process of its group at once.

        The spawner's thread then kills the rest of its session.
        """
        self._kill_group(self._group)

    def discard(self) -> None:
        """Kills and closes the child without waiting for its exit, because its caller was cancelled."""
        self.kill()
        self._close()

    async def aclose(self) -> None:
        """Kills the rest of its group and waits until the leader is reaped.

        It is shielded from cancellation, and each wait has a deadline.
        """
        with trio.CancelScope(shield=True):
            self.kill()
            with trio.move_on_after(EXIT_TIMEOUT_S):
                if self._pidfd >= 0:
                    await self.wait()
            reaped = self._close()
            with trio.move_on_after(EXIT_TIMEOUT_S):
                await reaped.wait()

    def _close(self) -> trio.Event:
        for pipe in (self._start_barrier, self.output, self.stderr):
            if pipe is not None:
                pipe.close()
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        return self._release_and_reap(self._group)


def _exit_status(pidfd: int) -> int:
    """Returns the status of an exited process, and leaves it unreaped so that its pid is not reused."""
    info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    assert info is not None, "waitid returns None only with WNOHANG"
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
