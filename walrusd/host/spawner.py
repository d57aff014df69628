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
from walrusd.host.group import Group
from walrusd.host.killing import kill_all, wait_gone
from walrusd.host.launch import Launched, Order, SpawnFailed, dying_with_parent, launch
from walrusd.host.process import subreaper
from walrusd.host.procfs import Seen, children, descendants, everyone, look

log = structlog.get_logger("walrusd")

END_S = 5.0
"""How long leaving waits for what was killed."""
BURY_S = 1.0
"""How long the thread waits for one that was killed just now."""
LOOK_AGAIN_S = 0.05
GLANCE_S = 0.001
"""Between two looks of which the first found nobody to wait for."""
Job = Callable[[], None]


class Spawner:
    """Enter it (async with) for the daemon's life; leaving kills what it has started and what is left of that.

    The queue of its thread has no bound of its own: whoever has a job in it waits for it, and one job stands for any
    number of signals.
    """

    def __init__(self, umask: int) -> None:
        """`umask` is the children's."""
        self._umask = umask
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._groups: dict[int, Group] = {}
        """What was started and is not reaped. The thread alone changes it."""
        self._strangers: frozenset[tuple[int, int]] = frozenset()
        """Whom this process had as children before, by pid and start: who starts walrusd by exec may have had some."""
        self._closed = False
        self._adopts = False
        self._reap_waits = False
        self._dying: tuple[str, ...] | None = None
        # A daemon thread: when trio's run ended without __aexit__, nobody is left to stop it.
        self._thread = threading.Thread(target=self._run, name="walrusd-spawner", daemon=True)

    @property
    def running(self) -> int:
        """Children that are not reaped yet."""
        return len(self._groups)

    async def __aenter__(self) -> Self:
        self._token = trio.lowlevel.current_trio_token()
        self._strangers = frozenset((seen.pid, seen.start) for seen in map(look, children(os.getpid())) if seen)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._closed = True
        with trio.move_on_after(2 * END_S, shield=True) as patience:
            await self._after(self._end_all).wait()
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
        gated: bool = False,
        dies_with_us: bool = True,
    ) -> Child:
        """Start a process in a session of its own, with no descriptor but 0, 1 and 2. Raises SpawnFailed.

        `gated`: it does nothing before `open_gate`; it never will if it is killed before, or if walrusd dies. A child
        whose caller is cancelled here has done nothing. `dies_with_us` is kept where util-linux's setpriv is installed.
        """
        order = Order(argv=tuple(argv), cwd=cwd, env=env, stdin=stdin, stderr=stderr, umask=self._umask)
        if self._closed:
            raise SpawnFailed(f"{order.argv[0]} was not started: walrusd is stopping.")
        start = _Start(order, dies_with_us=dies_with_us)
        self._jobs.put(partial(self._start, start))
        try:
            await start.settled.wait()
        except trio.Cancelled:
            start.wanted = False
            if start.child is not None:
                start.child.let_go()
            raise
        if start.failed is not None:
            raise start.failed
        assert start.child is not None, "it is settled and has not failed"
        if not gated:
            start.child.open_gate()
        return start.child

    async def reap(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Adopt every process that descends from this one and has lost its parent, and reap those that end; for ever.

        From then on nobody else in this process may start children: their status would be taken.
        """
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            subreaper()
            self._adopts = True
            task_status.started()
            async for _ in signals:
                if not self._reap_waits:
                    self._reap_waits = True
                    self._jobs.put(self._reap)

    def kill_all(self) -> None:
        """SIGKILL to every group that it has started, and to all that it has adopted; for who is about to exit."""
        for group in list(self._groups.values()):
            group.kill()
        if self._adopts:
            kill_all(self._relatives)

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

    def _tell(self, news: Job) -> None:
        self._token.run_sync_soon(news)

    def _after(self, job: Job) -> trio.Event:
        """Have the thread do it; the event is set when it has."""
        done = trio.Event()

        def do() -> None:
            try:
                job()
            finally:
                self._tell(done.set)

        self._jobs.put(do)
        return done

    def _start(self, start: "_Start") -> None:
        if not start.wanted:
            return
        try:
            launched = launch(start.order, self._dying_with_us if start.dies_with_us else tuple)
        except Exception as error:  # noqa: BLE001 - a bug, too, is an outcome: somebody waits for one
            self._tell(partial(start.settle, error))
            return
        group = self._groups[launched.popen.pid] = Group(launched.popen, launched.process)
        self._tell(partial(self._deliver, start, launched, group))

    def _dying_with_us(self) -> tuple[str, ...]:
        if self._dying is None:
            self._dying = dying_with_parent()
        return self._dying

    def _deliver(self, start: "_Start", launched: Launched, group: Group) -> None:
        child = Child(launched, group, end=self._end, bury=self._bury)
        start.settle(child)
        if not start.wanted:
            child.let_go()

    def _end(self, group: Group) -> None:
        group.kill()
        self._jobs.put(partial(group.kill_session, self._relatives))

    def _bury(self, group: Group) -> trio.Event:
        def bury() -> None:
            group.released = True
            if group.pid in self._groups and (seen := look(group.pid)) is not None:
                wait_gone([seen], BURY_S)
            self._reap()

        return self._after(bury)

    def _relatives(self) -> list[Seen]:
        """Those among whom all must be who were started here: once orphans are adopted, they have not far to go.

        Nobody where there is no descriptor to look with.
        """
        try:
            return descendants(os.getpid(), but=self._strangers) if self._adopts else list(everyone())
        except OSError:
            return []

    def _reap(self) -> None:
        """What was released, and what was adopted. No other thread reaps, so the kernel's list only grows meanwhile."""
        self._reap_waits = False
        for group in [group for group in self._groups.values() if group.released and group.reap()]:
            del self._groups[group.pid]
        if self._adopts:
            with suppress(OSError):  # no descriptor to look with: the next signal looks again
                for pid in set(children(os.getpid())) - self._groups.keys():
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)

    def _end_all(self) -> None:
        """Kill whoever is left, for END_S at most, and say whom that was."""
        ended: dict[int, str] = {}
        deadline = time.monotonic() + END_S
        while (alive := self._left()) and time.monotonic() < deadline:
            killed = kill_all(self._ours)
            ended |= {seen.pid: seen.name for seen in killed}
            for group in self._groups.values():
                group.kill()
                group.released = True
            if not (killed and wait_gone(killed, LOOK_AGAIN_S)):
                time.sleep(GLANCE_S)
            self._reap()
        if ended:
            log.warning("killed what was still running", processes=[f"{ended[pid]} ({pid})" for pid in sorted(ended)])
        if alive:
            log.error("a killed process does not end", processes=[f"{seen.name} ({seen.pid})" for seen in self._ours()])

    def _left(self) -> bool:
        """The kernel's own word, where every process that descends from us is our child in the end."""
        if not self._adopts:
            return bool(self._groups)
        with suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return not self._strangers or bool(self._relatives())
        return False

    def _ours(self) -> Iterable[Seen]:
        return [seen for seen in self._relatives() if self._adopts or seen.session in self._groups]


class _Start:
    """An order on its way, and what has become of it."""

    def __init__(self, order: Order, *, dies_with_us: bool) -> None:
        self.order = order
        self.dies_with_us = dies_with_us
        self.wanted = True
        self.settled = trio.Event()
        self.child: Child | None = None
        self.failed: Exception | None = None

    def settle(self, outcome: Child | Exception) -> None:
        match outcome:
            case Child():
                self.child = outcome
            case Exception():
                self.failed = outcome
        self.settled.set()
