"""Who asks: the same requests in every life, those that were answered before once more where they have a key."""

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import pytest
import trio.testing

from tests.crash.failing_disk import FailingDisk
from tests.crash.mortal_log import MortalLog
from tests.crash.notes import Notes
from tests.crash.stage import Stage, first_of, jump
from walrus_protocol.branches import CheckpointMade, Forked
from walrus_protocol.content import ToolOutput, WhenBusy
from walrus_protocol.json import decode
from walrus_protocol.problems import Problem
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.tickets import Ticket

T = TypeVar("T")

RETRY_S = 60.0
"""Longer than a suspended turn waits before it asks the store again."""


class Waits(Exception):
    """A turn is suspended, and a message that waits in the inbox waits on."""


class Client:
    """Of one life. `again`: there was one before it."""

    def __init__(
        self, runtime: Runtime, log: MortalLog, stage: Stage, disk: FailingDisk, notes: Notes, *, again: bool
    ) -> None:
        self._runtime = runtime
        self._log = log
        self._stage = stage
        self._disk = disk
        self._notes = notes
        self._again = again
        self._session: int | None = None

    async def play(self) -> None:
        """All that is asked in a life; from its beginning once more where the disk has refused something.

        On a disk that does not get well the life ends as by -9: it has nothing more to write.
        """
        while not await self._all_answered():
            self._again = True
            self._stage.hold()
            if self._disk.fails:
                await self._look_around()
                os.kill(os.getpid(), signal.SIGKILL)
            await self._until_well()

    async def _all_answered(self) -> bool:
        try:
            await self._ask_all()
        except Waits:
            pass
        except Problem as problem:
            if problem.kind != self._disk.kind:
                raise
        else:
            return True
        self._notes.write("refused")
        return False

    async def quiet(self) -> None:
        """Wait until what goes on by itself is held, or at its end."""
        sessions = await self._log.unfinished()
        async with trio.open_nursery() as nursery:

            async def all_rest() -> None:
                for session in sessions:
                    await self._runtime.wait(session, {"idle", "error", "closed"})
                nursery.cancel_scope.cancel()

            async def held() -> None:
                await self._stage.held.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(all_rest)
            nursery.start_soon(held)

    async def _ask_all(self) -> None:
        branches = self._runtime.branches
        session = self._session = await self._runtime.create_session("walrus", key="the only one")
        self._notes.write("created", value=session)
        await self._answered(session, "hello")
        start = await self._once("checkpoint", CheckpointMade, lambda: branches.checkpoint(session, "start"))
        fork = await self._once("forked", Forked, lambda: branches.fork(session))
        await self._work(session)
        await self._answered(fork.session, "aside")
        await self._once("rewound", object, lambda: branches.rewind(session, start.at))
        await self._answered(session, "again")

    async def _work(self, session: int) -> None:
        """A long turn, what is said meanwhile, and the turn of what had to wait."""
        if self._again:
            self._stage.hold()
        work = await self._send(session, "work")
        await self._stage.cue("more", or_else=work.settled)
        more = await self._send(session, "more")
        await self._stage.cue("hurry", or_else=work.settled)
        hurry = await self._send(session, "hurry", when_busy="steer")
        for text, ticket in (("work", work), ("more", more), ("hurry", hurry)):
            await self._outcome(text, ticket)

    async def _once(
        self, what: Literal["checkpoint", "forked", "rewound"], type_: type[T], ask: Callable[[], Awaitable[object]]
    ) -> T:
        """A request that has no key is not asked again when it was answered."""
        if not self._notes.read(what):
            self._notes.write(what, value=await ask())
        return decode(self._notes.read(what)[0].value, type_)

    async def _answered(self, session: int, text: str) -> None:
        await self._outcome(text, await self._send(session, text))

    async def _send(self, session: int, text: str, when_busy: WhenBusy = "queue") -> Ticket:
        ticket = await self._runtime.send(session, Incoming(content=text, key=text, when_busy=when_busy))
        self._notes.write("accepted", text)
        self._stage.answer(text)
        return ticket

    async def _outcome(self, text: str, ticket: Ticket) -> None:
        if not ticket.settled.is_set():
            self._stage.go_on()
        while not ticket.settled.is_set():
            await first_of(ticket.settled, self._log.refusal)
            if not ticket.settled.is_set():
                await trio.testing.wait_all_tasks_blocked()
                if self._runtime.suspended() and not ticket.settled.is_set():
                    raise Waits
        self._notes.write("result", text, await ticket.outcome())

    async def _until_well(self) -> None:
        while self._runtime.suspended():
            jump(RETRY_S)
            await trio.testing.wait_all_tasks_blocked()
            await self._log.pulse()
        await self.quiet()

    async def _look_around(self) -> None:
        """Reads go on; whatever is new is refused, in the same words."""
        await self._refused(self._runtime.create_session("walrus"))
        if (session := self._session) is None:
            assert await self._runtime.sessions() == []
            return
        info = await self._runtime.session(session)
        assert info.last_seq == len(await self._log.events(session, 0, 1000))
        messages = await self._runtime.branches.history(session)
        assert info.messages == sum(not isinstance(message, ToolOutput) for message in messages)
        await self._refused(self._runtime.send(session, Incoming(content="in vain")))

    async def _refused(self, asked: Awaitable[object]) -> None:
        with pytest.raises(Problem) as refused:
            await asked
        assert refused.value.kind == self._disk.kind
        assert refused.value.hint
