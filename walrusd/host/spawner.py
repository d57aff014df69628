"""Starts and reaps all child processes of the daemon, on one thread.

The thread runs as long as the daemon: the kernel kills a child that shall die with its parent as soon as the *thread*
that started it exits. The same thread starts and reaps: so a child that is just being started is never reaped as an
orphan, which would lose its exit status.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Literal, Self

import structlog
import trio

from walrusd.host.child import Child
from walrusd.host.kill import ProcessGroup, kill_all, wait_exited
from walrusd.host.launch import SpawnedProcess, SpawnFailed, SpawnRequest, launch
from walrusd.host.libc import set_child_subreaper
from walrusd.host.procfs import ProcInfo, all_processes, child_pids, descendants, read_proc

log = structlog.get_logger("walrusd")

STOP_TIMEOUT_S = 5.0
"""Maximum seconds that the spawner waits, when it is left, for the processes that it has killed."""
REAP_WAIT_S = 1.0
"""Maximum seconds that the thread waits for one child that was just killed."""
RESCAN_INTERVAL_S = 0.05
"""Maximum seconds to wait for killed processes before the next scan."""
EMPTY_SCAN_DELAY_S = 0.001
"""Seconds between two scans if the first one found nothing to wait for."""
SpawnerJob = Callable[[], None]
"""A job for the spawner's thread."""


class Spawner:
    """Starts child processes while it is entered (async with).

    Leaving it kills them and all that they have started. The job queue of its thread has no limit of its own: each
    caller waits for its job, and one job handles any number of signals.
    """

    def __init__(self, umask: int) -> None:
        """`umask` is the umask of the children."""
        self._umask = umask
        self._jobs: SimpleQueue[SpawnerJob | None] = SimpleQueue()
        self._groups: dict[int, ProcessGroup] = {}
        """Children that are not reaped, by pid. Only the thread changes it."""
        self._preexisting_children: frozenset[tuple[int, int]] = frozenset()
        """Children of the program that exec'ed walrusd, by pid and start time; they are left alone."""
        self._closed = False
        self._is_subreaper = False
        self._reap_queued = False
        # A daemon thread: if trio's run ends without __aexit__, nothing stops the thread.
        self._thread = threading.Thread(target=self._run, name="walrusd-spawner", daemon=True)

    @property
    def unreaped_count(self) -> int:
        """Number of children that are not reaped yet."""
        return len(self._groups)

    async def __aenter__(self) -> Self:
        self._trio_token = trio.lowlevel.current_trio_token()
        self._preexisting_children = frozenset(
            (child.pid, child.start) for child in map(read_proc, child_pids(os.getpid())) if child
        )
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._closed = True
        with trio.move_on_after(2 * STOP_TIMEOUT_S, shield=True) as stop_scope:
            await self._run_on_thread(self._kill_all_and_wait).wait()
        self._jobs.put(None)
        if stop_scope.cancelled_caught:  # the thread hangs, in a folder on a file system that does not answer
            self.kill_all()
        else:
            self._thread.join()  # it has no job left, so this does not block for long

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        stdin: Literal["null", "pipe"] = "null",
        stderr: Literal["merged", "pipe"] = "merged",
        with_start_barrier: bool = False,
    ) -> Child:
        """Starts a process in its own session, with only the descriptors 0, 1 and 2. Raises SpawnFailed.

        `with_start_barrier`: the program starts only with `release_start_barrier`, and never if the child is killed
        before or walrusd dies. If the caller is cancelled here, the program has not run. The process dies with walrusd
        if util-linux's setpriv is installed.
        """
        request = SpawnRequest(argv=tuple(argv), cwd=cwd, env=env, stdin=stdin, stderr=stderr, umask=self._umask)
        if self._closed:
            raise SpawnFailed(f"{request.argv[0]} was not started: walrusd is stopping.")
        pending = _PendingSpawn(request)
        self._jobs.put(partial(self._launch, pending))
        try:
            await pending.done.wait()
        except trio.Cancelled:
            pending.wanted = False
            if isinstance(pending.outcome, Child):
                pending.outcome.discard()
            raise
        child = pending.outcome
        if not isinstance(child, Child):
            assert child is not None, "there is an outcome"
            raise child
        if not with_start_barrier:
            child.release_start_barrier()
        return child

    async def adopt_and_reap(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Adopts every orphaned descendant of this process and reaps those that exit, until cancelled.

        From then on no other code in this process may start children: their exit status would be lost.
        """
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            set_child_subreaper()
            self._is_subreaper = True
            task_status.started()
            async for _ in signals:
                if not self._reap_queued:
                    self._reap_queued = True
                    self._jobs.put(self._reap_exited)

    def kill_all(self) -> None:
        """Sends SIGKILL to every started group and every adopted process, just before this process exits."""
        for group in list(self._groups.values()):
            group.kill()
        if self._is_subreaper:
            kill_all(self._possible_descendants)

    def _run(self) -> None:
        # A child inherits the mask of the thread that forks it.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except trio.RunFinishedError:
                self.kill_all()  # trio has ended, so __aexit__ does not do it
                return
            except Exception:
                log.exception("spawner_job_failed")  # a bug; the thread must continue regardless

    def _run_on_thread(self, job: SpawnerJob) -> trio.Event:
        """Runs the job on the thread; the event is set when it is done."""
        done = trio.Event()

        def run_job() -> None:
            try:
                job()
            finally:
                self._trio_token.run_sync_soon(done.set)

        self._jobs.put(run_job)
        return done

    def _launch(self, pending: "_PendingSpawn") -> None:
        if not pending.wanted:
            return
        try:
            spawned = launch(pending.request)
        except Exception as error:  # noqa: BLE001 - a bug is an outcome, too: the caller waits for one
            self._trio_token.run_sync_soon(partial(pending.set_outcome, error))
            return
        group = self._groups[spawned.popen.pid] = ProcessGroup(spawned.popen, spawned.process)
        self._trio_token.run_sync_soon(partial(self._deliver, pending, spawned, group))

    def _deliver(self, pending: "_PendingSpawn", spawned: SpawnedProcess, group: ProcessGroup) -> None:
        child = Child(spawned, group, kill_group=self._kill_group, release_and_reap=self._release_and_reap)
        pending.set_outcome(child)
        if not pending.wanted:
            child.discard()

    def _kill_group(self, group: ProcessGroup) -> None:
        group.kill()
        self._jobs.put(partial(group.kill_session, self._possible_descendants))

    def _release_and_reap(self, group: ProcessGroup) -> trio.Event:
        def release() -> None:
            group.released = True
            if group.pid in self._groups and (leader := read_proc(group.pid)) is not None:
                wait_exited([leader], REAP_WAIT_S)
            self._reap_exited()

        return self._run_on_thread(release)

    def _possible_descendants(self) -> list[ProcInfo]:
        """Returns processes among which are all that were started here.

        They are our descendants, or all processes if we do not adopt orphans. The list is empty if no descriptor is
        free to read /proc.
        """
        try:
            return (
                descendants(os.getpid(), excluding=self._preexisting_children)
                if self._is_subreaper
                else list(all_processes())
            )
        except OSError:
            return []

    def _reap_exited(self) -> None:
        """Reaps released children and adopted orphans.

        Only this thread reaps, so no listed child can disappear meanwhile.
        """
        self._reap_queued = False
        for group in [group for group in self._groups.values() if group.released and group.reap()]:
            del self._groups[group.pid]
        if self._is_subreaper:
            with suppress(OSError):  # no descriptor is free to read /proc: the next signal tries again
                for pid in set(child_pids(os.getpid())) - self._groups.keys():
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    def _kill_all_and_wait(self) -> None:
        """Kills the remaining processes and logs which they were. Takes STOP_TIMEOUT_S at most."""
        killed_names: dict[int, str] = {}
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (alive := self._has_running_children()) and time.monotonic() < deadline:
            killed = kill_all(self._own_processes)
            killed_names |= {process.pid: process.name for process in killed}
            for group in self._groups.values():
                group.kill()
                group.released = True
            if not (killed and wait_exited(killed, RESCAN_INTERVAL_S)):
                time.sleep(EMPTY_SCAN_DELAY_S)
            self._reap_exited()
        if killed_names:
            log.warning("children_killed", processes=[f"{name} ({pid})" for pid, name in sorted(killed_names.items())])
        if alive:
            log.error(
                "killed_process_still_running",
                processes=[f"{process.name} ({process.pid})" for process in self._own_processes()],
            )

    def _has_running_children(self) -> bool:
        """Returns whether children are left.

        A subreaper can ask the kernel, because every orphan becomes its child.
        """
        if not self._is_subreaper:
            return bool(self._groups)
        with suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return not self._preexisting_children or bool(self._possible_descendants())
        return False

    def _own_processes(self) -> Iterable[ProcInfo]:
        return [
            process for process in self._possible_descendants() if self._is_subreaper or process.sid in self._groups
        ]


class _PendingSpawn:
    """A spawn request that waits for the thread, and its outcome: a child or an error."""

    def __init__(self, request: SpawnRequest) -> None:
        self.request = request
        self.wanted = True
        self.done = trio.Event()
        self.outcome: Child | Exception | None = None

    def set_outcome(self, outcome: Child | Exception) -> None:
        self.outcome = outcome
        self.done.set()
