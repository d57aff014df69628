"""The scripted client of a crash-test run; each run sends the same requests.

A request that was answered in an earlier run is sent again only if it has an idempotency key.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import pytest
import trio.testing

from tests.crash.failing_disk import FailingDisk
from tests.crash.killable_log import KillableLog
from tests.crash.scheduler_control import SchedulerControl, advance_clock, wait_for_any
from tests.crash.side_records import SideRecords
from walrus_protocol.content import ToolOutput, WhenBusy
from walrus_protocol.json import decode
from walrus_protocol.methods.fork_rewind import CheckpointResult, ForkResult
from walrus_protocol.problems import Problem
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.store.tables.session import read_unfinished_sessions

T = TypeVar("T")

RETRY_S = 60.0
"""Seconds to advance the clock; longer than a suspended turn waits before it retries the write."""


class TurnSuspended(Exception):
    """The turn under way is suspended, so a message in the inbox has to wait."""


class ScriptedClient:
    """The client of one run of the daemon. `is_restart` means that an earlier run was killed."""

    def __init__(
        self,
        runtime: Runtime,
        log: KillableLog,
        control: SchedulerControl,
        disk: FailingDisk,
        records: SideRecords,
        *,
        is_restart: bool,
    ) -> None:
        self._runtime = runtime
        self._log = log
        self._control = control
        self._disk = disk
        self._records = records
        self._is_restart = is_restart
        self._session: int | None = None

    async def run(self) -> None:
        """Sends all requests of a run, and starts over if the disk refused a write.

        If the disk keeps failing, the process kills itself with SIGKILL: it can write nothing more.
        """
        while not await self._try_send_all():
            self._is_restart = True
            self._control.hold()
            if self._disk.is_failing:
                await self._check_reads_still_work()
                os.kill(os.getpid(), signal.SIGKILL)
            await self._wait_until_disk_recovers()

    async def _try_send_all(self) -> bool:
        """Returns False if a write was refused because of the disk fault."""
        try:
            await self._send_all()
        except TurnSuspended:
            pass
        except Problem as problem:
            if problem.kind != self._disk.problem_kind:
                raise
        else:
            return True
        self._records.write("refused")
        return False

    async def wait_settled(self) -> None:
        """Waits until every resumed turn has ended, or one of them is held."""
        sessions = await self._log.read(read_unfinished_sessions)
        async with trio.open_nursery() as nursery:

            async def wait_turns_ended() -> None:
                for session in sessions:
                    await self._runtime.wait(session, {"idle", "error", "closed"})
                nursery.cancel_scope.cancel()

            async def wait_actor_held() -> None:
                await self._control.actor_waiting.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_turns_ended)
            nursery.start_soon(wait_actor_held)

    async def _send_all(self) -> None:
        commands = self._runtime.fork_rewind
        session = self._session = await self._runtime.create_session("walrus", key="first session")
        self._records.write("created", value=session)
        await self._send_and_wait(session, "hello")
        start = await self._request_once("checkpoint", CheckpointResult, lambda: commands.checkpoint(session, "start"))
        fork = await self._request_once("forked", ForkResult, lambda: commands.fork(session))
        await self._send_work(session)
        await self._send_and_wait(fork.session, "aside")
        await self._request_once("rewound", object, lambda: commands.rewind(session, start.at))
        await self._send_and_wait(session, "again")

    async def _send_work(self, session: int) -> None:
        """Sends a long turn, a message and a steer while it runs, and waits for the results of all three."""
        if self._is_restart:
            self._control.hold()
        work = await self._send(session, "work")
        await self._control.wait_for_sync_point("more", unless=work.settled)
        more = await self._send(session, "more")
        await self._control.wait_for_sync_point("hurry", unless=work.settled)
        hurry = await self._send(session, "hurry", when_busy="steer")
        for text, handle in (("work", work), ("more", more), ("hurry", hurry)):
            await self._wait_result(text, handle)

    async def _request_once(
        self, kind: Literal["checkpoint", "forked", "rewound"], type_: type[T], request: Callable[[], Awaitable[object]]
    ) -> T:
        """Sends a request without an idempotency key, unless an earlier run got its answer."""
        if not self._records.read(kind):
            self._records.write(kind, value=await request())
        return decode(self._records.read(kind)[0].value, type_)

    async def _send_and_wait(self, session: int, text: str) -> None:
        await self._wait_result(text, await self._send(session, text))

    async def _send(self, session: int, text: str, when_busy: WhenBusy = "queue") -> TurnHandle:
        handle = await self._runtime.send(session, MessageRequest(content=text, key=text, when_busy=when_busy))
        self._records.write("accepted", text)
        self._control.acknowledge(text)
        return handle

    async def _wait_result(self, text: str, handle: TurnHandle) -> None:
        if not handle.settled.is_set():
            self._control.release()
        while not handle.settled.is_set():
            await wait_for_any(handle.settled, self._log.write_refused)
            if not handle.settled.is_set():
                await trio.testing.wait_all_tasks_blocked()
                if self._runtime.suspended_sessions() and not handle.settled.is_set():
                    raise TurnSuspended
        self._records.write("result", text, await handle.wait_result())

    async def _wait_until_disk_recovers(self) -> None:
        while self._runtime.suspended_sessions():
            advance_clock(RETRY_S)
            await trio.testing.wait_all_tasks_blocked()
            await self._log.wait_for_writes()
        await self.wait_settled()

    async def _check_reads_still_work(self) -> None:
        """Checks that reads still work, and that new requests are refused with the kind of the disk fault."""
        await self._check_refused(self._runtime.create_session("walrus"))
        if (session := self._session) is None:
            assert await self._runtime.sessions() == []
            return
        info = await self._runtime.session(session)
        assert info.last_seq == len(await self._log.events(session, 0, 1000))
        messages = await self._runtime.fork_rewind.history(session)
        assert info.messages == sum(not isinstance(message, ToolOutput) for message in messages)
        await self._check_refused(self._runtime.send(session, MessageRequest(content="refused")))

    async def _check_refused(self, request: Awaitable[object]) -> None:
        with pytest.raises(Problem) as refused:
            await request
        assert refused.value.kind == self._disk.problem_kind
        assert refused.value.hint
