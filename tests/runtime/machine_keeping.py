"""Sessions that expire, what is swept up after them, and what may be left when nobody needs it."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import pytest
import trio

from tests.runtime.machine_archive import Archive
from tests.runtime.machine_disks import Left
from tests.runtime.machine_facts import Facts
from tests.runtime.machine_orders import Expire
from tests.runtime.machine_valve import Valve
from walrus_config.schema import Storage
from walrus_protocol.events import Durable, SessionCreated, SessionsExpired
from walrus_protocol.problems import Problem
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.portable.exporting import export
from walrusd.runtime.runtime import Runtime
from walrusd.space import Space
from walrusd.store.log import DAEMON

DAY_S = 86_400.0


class Keeping:
    """The space of one life. `see` is shown each fact of it."""

    def __init__(self, runtime: Runtime, valve: Valve, see: Callable[[SessionsExpired], None]) -> None:
        self._valve = valve
        self._runtime = runtime
        self._storage = Storage()
        self._space = Space(
            valve,
            runtime.sessions_in_memory,
            runtime.facts,
            storage=lambda: self._storage,
            clock=lambda: trio.current_time() + 1,  # what was closed just now, was closed before
            see=see,
        )

    async def expire(self, order: Expire) -> None:
        self._valve.sweeps = order.sweeps
        if order.room:
            self._storage = Storage(max_db_bytes=(await self._valve.room()).used_bytes - 1)
        else:
            self._storage = Storage(retain_closed_days=order.keep_s / DAY_S)
        await self._space.gc(dry_run=False)

    async def sweep(self) -> None:
        self._valve.sweeps = True
        self._storage = Storage()
        await self._space.gc(dry_run=False)

    async def check_gone(self, order: Expire) -> None:
        """All go that are closed and that nobody uses; the writer's thread may be using one a moment longer."""
        for _ in range(100):
            await self.expire(order)
            facts = await Facts.of(self._valve.log)
            closed = {session for session, folded in facts.sessions.items() if folded.outline.state == "closed"}
            used = {session for session in closed if self._runtime.sessions_in_memory.in_memory(session)}
            if closed == used:
                return
        raise AssertionError(f"{closed - used} are closed, and do not go")

    async def check_not_found(self, session: int) -> None:
        """Everywhere."""
        runtime, log = self._runtime, self._valve.log

        async def say(_: str) -> None:
            await trio.lowlevel.checkpoint()
            raise AssertionError("there is nothing to be said of it")

        requests: list[Callable[[], Awaitable[object]]] = [
            lambda: runtime.session(session),
            lambda: runtime.live(session),
            lambda: runtime.send(session, Incoming(content="Hello?")),
            lambda: runtime.interrupt(session),
            lambda: runtime.close_session(session, force=True),
            lambda: runtime.wait(session, {"closed"}),
            lambda: runtime.branches.fork(session),
            lambda: runtime.branches.rewind(session, 1),
            lambda: runtime.branches.checkpoint(session, "a"),
            lambda: runtime.branches.checkpoints(session),
            lambda: runtime.branches.history(session),
            lambda: export(log, session, say, page=nullcontext, clock=trio.current_time, version="0"),
        ]
        for request in requests:
            with pytest.raises(Problem) as refused:
                await request()
            assert refused.value.kind == "session_not_found"
        hits = await log.search(f'"{session}"')
        assert session not in {hit.session for hit in hits}


def check_left(facts: Facts, left: Left, archive: Archive) -> None:
    """After the last sweep: all that somebody needs is there, and nothing else."""
    needed = {session: [row.seq for row in rows] for session, rows in {**facts.rows, **facts.inherited}.items()}
    assert left.seqs == needed | ({DAEMON: [row.seq for row in facts.daemon]} if facts.daemon else {})
    assert left.beside <= facts.rows.keys(), "with a session goes all that was kept beside it"
    assert left.going_on == {session for session in needed if _goes_on(archive.logs[session][0])}
    assert left.unlisted == facts.inherited.keys()
    assert left.strays == 0


def _goes_on(created: Durable) -> bool:
    return isinstance(created, SessionCreated) and created.parent is not None
