"""The thread that starts every child, and reaps whatever ends.

It is one thread for the daemon's life: the kernel kills a child that shall die with its parent when the *thread* ends
that started it. And it is one thread for both: a child that is being started is never mistaken for an orphan, so nobody
takes its status before it was told.
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
from walrusd.host.kill import kill_all, wait_exited
from walrusd.host.launch import SpawnedProcess, SpawnFailed, SpawnRequest, find_pdeathsig_command, launch
from walrusd.host.peer_credentials import set_child_subreaper
from walrusd.host.process_group import ProcessGroup
from walrusd.host.procfs import ProcInfo, all_processes, child_pids, descendants, read_proc

log = structlog.get_logger("walrusd")

STOP_TIMEOUT_S = 5.0
"""How long leaving waits for what was killed."""
REAP_WAIT_S = 1.0
"""How long the thread waits for one that was killed just now."""
RESCAN_INTERVAL_S = 0.05
EMPTY_SCAN_DELAY_S = 0.001
"""Between two looks of which the first found nobody to wait for."""
SpawnerJob = Callable[[], None]


class Spawner:
    """Enter it (async with) for the daemon's life; leaving kills what it has started and what is left of that.

    The queue of its thread has no bound of its own: whoever has a job in it waits for it, and one job stands for any
    number of signals.
    """

    def __init__(self, umask: int) -> None:
        """`umask` is the children's."""
        self._umask = umask
        self._jobs: SimpleQueue[SpawnerJob | None] = SimpleQueue()
        self._groups: dict[int, ProcessGroup] = {}
        """What was started and is not reaped. The thread alone changes it."""
        self._preexisting_children: frozenset[tuple[int, int]] = frozenset()
        """Whom this process had as children before, by pid and start: who starts walrusd by exec may have had some."""
        self._closed = False
        self._is_subreaper = False
        self._reap_queued = False
        self._pdeathsig_command: tuple[str, ...] | None = None
        # A daemon thread: when trio's run ended without __aexit__, nobody is left to stop it.
        self._thread = threading.Thread(target=self._run, name="walrusd-spawner", daemon=True)

    @property
    def unreaped_count(self) -> int:
        """Children that are not reaped yet."""
        return len(self._groups)

    async def __aenter__(self) -> Self:
        self._trio_token = trio.lowlevel.current_trio_token()
        self._preexisting_children = frozenset(
            (seen.pid, seen.start) for seen in map(read_proc, child_pids(os.getpid())) if seen
        )
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._closed = True
        with trio.move_on_after(2 * STOP_TIMEOUT_S, shield=True) as patience:
            await self._run_on_thread(self._kill_all_and_wait).wait()
        self._jobs.put(None)
        if patience.cancelled_caught:  # the thread hangs, in a folder on a file system that does not answer
            self.kill_all()
        else:
            self._thread.join()  # it has nothing to do any more but to end

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        stdin: Literal["null", "pipe"] = "null",
        stderr: Literal["merged", "pipe"] = "merged",
        with_start_barrier: bool = False,
        dies_with_daemon: bool = True,
    ) -> Child:
        """Start a process in a session of its own, with no descriptor but 0, 1 and 2. Raises SpawnFailed.

        `gated`: it does nothing before `open_gate`; it never will if it is killed before, or if walrusd dies. A child
        whose caller is cancelled here has done nothing. `dies_with_us` is kept where util-linux's setpriv is installed.
        """
        order = SpawnRequest(argv=tuple(argv), cwd=cwd, env=env, stdin=stdin, stderr=stderr, umask=self._umask)
        if self._closed:
            raise SpawnFailed(f"{order.argv[0]} was not started: walrusd is stopping.")
        start = _PendingSpawn(order, dies_with_daemon=dies_with_daemon)
        self._jobs.put(partial(self._launch, start))
        try:
            await start.done.wait()
        except trio.Cancelled:
            start.wanted = False
            if start.child is not None:
                start.child.discard()
            raise
        if start.error is not None:
            raise start.error
        assert start.child is not None, "it is settled and has not failed"
        if not with_start_barrier:
            start.child.release_start_barrier()
        return start.child

    async def adopt_and_reap(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Adopt every process that descends from this one and has lost its parent, and reap those that end; for ever.

        From then on nobody else in this process may start children: their status would be taken.
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
        """SIGKILL to every group that it has started, and to all that it has adopted; for who is about to exit."""
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
                self.kill_all()  # nobody is left to do it
                return
            except Exception:
                log.exception("a job of the spawner failed")  # a bug; the thread is needed all the same

    def _run_in_trio(self, callback: SpawnerJob) -> None:
        self._trio_token.run_sync_soon(callback)

    def _run_on_thread(self, job: SpawnerJob) -> trio.Event:
        """Have the thread do it; the event is set when it has."""
        done = trio.Event()

        def do() -> None:
            try:
                job()
            finally:
                self._run_in_trio(done.set)

        self._jobs.put(do)
        return done

    def _launch(self, pending: "_PendingSpawn") -> None:
        if not pending.wanted:
            return
        try:
            launched = launch(pending.request, self._pdeathsig_prefix if pending.dies_with_daemon else tuple)
        except Exception as error:  # noqa: BLE001 - a bug, too, is an outcome: somebody waits for one
            self._run_in_trio(partial(pending.set_outcome, error))
            return
        group = self._groups[launched.popen.pid] = ProcessGroup(launched.popen, launched.process)
        self._run_in_trio(partial(self._deliver, pending, launched, group))

    def _pdeathsig_prefix(self) -> tuple[str, ...]:
        if self._pdeathsig_command is None:
            self._pdeathsig_command = find_pdeathsig_command()
        return self._pdeathsig_command

    def _deliver(self, pending: "_PendingSpawn", spawned: SpawnedProcess, group: ProcessGroup) -> None:
        child = Child(spawned, group, kill_group=self._kill_group, release_and_reap=self._release_and_reap)
        pending.set_outcome(child)
        if not pending.wanted:
            child.discard()

    def _kill_group(self, group: ProcessGroup) -> None:
        group.kill()
        self._jobs.put(partial(group.kill_session, self._possible_descendants))

    def _release_and_reap(self, group: ProcessGroup) -> trio.Event:
        def bury() -> None:
            group.released = True
            if group.pid in self._groups and (seen := read_proc(group.pid)) is not None:
                wait_exited([seen], REAP_WAIT_S)
            self._reap_exited()

        return self._run_on_thread(bury)

    def _possible_descendants(self) -> list[ProcInfo]:
        """Those among whom all must be who were started here: once orphans are adopted, they have not far to go.

        Nobody where there is no descriptor to look with.
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
        """What was released, and what was adopted. No other thread reaps, so the kernel's list only grows meanwhile."""
        self._reap_queued = False
        for group in [group for group in self._groups.values() if group.released and group.reap()]:
            del self._groups[group.pid]
        if self._is_subreaper:
            with suppress(OSError):  # no descriptor to look with: the next signal looks again
                for pid in set(child_pids(os.getpid())) - self._groups.keys():
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    def _kill_all_and_wait(self) -> None:
        """Kill whoever is left, for END_S at most, and say whom that was."""
        ended: dict[int, str] = {}
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (alive := self._has_running_children()) and time.monotonic() < deadline:
            killed = kill_all(self._own_processes)
            ended |= {seen.pid: seen.name for seen in killed}
            for group in self._groups.values():
                group.kill()
                group.released = True
            if not (killed and wait_exited(killed, RESCAN_INTERVAL_S)):
                time.sleep(EMPTY_SCAN_DELAY_S)
            self._reap_exited()
        if ended:
            log.warning("killed what was still running", processes=[f"{ended[pid]} ({pid})" for pid in sorted(ended)])
        if alive:
            log.error(
                "a killed process does not end",
                processes=[f"{seen.name} ({seen.pid})" for seen in self._own_processes()],
            )

    def _has_running_children(self) -> bool:
        """The kernel's own word, where every process that descends from us is our child in the end."""
        if not self._is_subreaper:
            return bool(self._groups)
        with suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return not self._preexisting_children or bool(self._possible_descendants())
        return False

    def _own_processes(self) -> Iterable[ProcInfo]:
        return [seen for seen in self._possible_descendants() if self._is_subreaper or seen.sid in self._groups]


class _PendingSpawn:
    """An order on its way, and what has become of it."""

    def __init__(self, request: SpawnRequest, *, dies_with_daemon: bool) -> None:
        self.request = request
        self.dies_with_daemon = dies_with_daemon
        self.wanted = True
        self.done = trio.Event()
        self.child: Child | None = None
        self.error: Exception | None = None

    def set_outcome(self, outcome: Child | Exception) -> None:
        match outcome:
            case Child():
                self.child = outcome
            case Exception():
                self.error = outcome
        self.done.set()
