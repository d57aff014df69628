"""Who asks: the same requests in every life, those that were answered before once more where they have a key."""

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

T = TypeVar("T")

RETRY_S = 60.0
"""Longer than a suspended turn waits before it asks the store again."""


class TurnSuspended(Exception):
    """A turn is suspended, and a message that waits in the inbox waits on."""


class ScriptedClient:
    """Of one life. `again`: there was one before it."""

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
        """All that is asked in a life; from its beginning once more where the disk has refused something.

        On a disk that does not get well the life ends as by -9: it has nothing more to write.
        """
        while not await self._try_send_all():
            self._is_restart = True
            self._control.hold()
            if self._disk.is_failing:
                await self._check_reads_still_work()
                os.kill(os.getpid(), signal.SIGKILL)
            await self._wait_until_disk_recovers()

    async def _try_send_all(self) -> bool:
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
        """Wait until what goes on by itself is held, or at its end."""
        sessions = await self._log.unfinished_sessions()
        async with trio.open_nursery() as nursery:

            async def all_rest() -> None:
                for session in sessions:
                    await self._runtime.wait(session, {"idle", "error", "closed"})
                nursery.cancel_scope.cancel()

            async def held() -> None:
                await self._control.actor_waiting.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(all_rest)
            nursery.start_soon(held)

    async def _send_all(self) -> None:
        branches = self._runtime.fork_rewind
        session = self._session = await self._runtime.create_session("walrus", key="the only one")
        self._records.write("created", value=session)
        await self._send_and_wait(session, "hello")
        start = await self._request_once("checkpoint", CheckpointResult, lambda: branches.checkpoint(session, "start"))
        fork = await self._request_once("forked", ForkResult, lambda: branches.fork(session))
        await self._send_work(session)
        await self._send_and_wait(fork.session, "aside")
        await self._request_once("rewound", object, lambda: branches.rewind(session, start.at))
        await self._send_and_wait(session, "again")

    async def _send_work(self, session: int) -> None:
        """A long turn, what is said meanwhile, and the turn of what had to wait."""
        if self._is_restart:
            self._control.hold()
        work = await self._send(session, "work")
        await self._control.wait_for_sync_point("more", unless=work.settled)
        more = await self._send(session, "more")
        await self._control.wait_for_sync_point("hurry", unless=work.settled)
        hurry = await self._send(session, "hurry", when_busy="steer")
        for text, ticket in (("work", work), ("more", more), ("hurry", hurry)):
            await self._wait_result(text, ticket)

    async def _request_once(
        self, what: Literal["checkpoint", "forked", "rewound"], type_: type[T], request: Callable[[], Awaitable[object]]
    ) -> T:
        """A request that has no key is not asked again when it was answered."""
        if not self._records.read(what):
            self._records.write(what, value=await request())
        return decode(self._records.read(what)[0].value, type_)

    async def _send_and_wait(self, session: int, text: str) -> None:
        await self._wait_result(text, await self._send(session, text))

    async def _send(self, session: int, text: str, when_busy: WhenBusy = "queue") -> TurnHandle:
        ticket = await self._runtime.send(session, MessageRequest(content=text, key=text, when_busy=when_busy))
        self._records.write("accepted", text)
        self._control.acknowledge(text)
        return ticket

    async def _wait_result(self, text: str, ticket: TurnHandle) -> None:
        if not ticket.settled.is_set():
            self._control.release()
        while not ticket.settled.is_set():
            await wait_for_any(ticket.settled, self._log.write_refused)
            if not ticket.settled.is_set():
                await trio.testing.wait_all_tasks_blocked()
                if self._runtime.suspended_sessions() and not ticket.settled.is_set():
                    raise TurnSuspended
        self._records.write("result", text, await ticket.wait_result())

    async def _wait_until_disk_recovers(self) -> None:
        while self._runtime.suspended_sessions():
            advance_clock(RETRY_S)
            await trio.testing.wait_all_tasks_blocked()
            await self._log.wait_for_writes()
        await self.wait_settled()

    async def _check_reads_still_work(self) -> None:
        """Reads go on; whatever is new is refused, in the same words."""
        await self._check_refused(self._runtime.create_session("walrus"))
        if (session := self._session) is None:
            assert await self._runtime.sessions() == []
            return
        info = await self._runtime.session(session)
        assert info.last_seq == len(await self._log.events(session, 0, 1000))
        messages = await self._runtime.fork_rewind.history(session)
        assert info.messages == sum(not isinstance(message, ToolOutput) for message in messages)
        await self._check_refused(self._runtime.send(session, MessageRequest(content="in vain")))

    async def _check_refused(self, request: Awaitable[object]) -> None:
        with pytest.raises(Problem) as refused:
            await request
        assert refused.value.kind == self._disk.problem_kind
        assert refused.value.hint
