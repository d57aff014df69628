"""Tests leases under random concurrent use: a session is in memory once, and not deleted while it is used."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest
import trio

from tests.fakes.memory_log import MemoryLog
from tests.fakes.stores import commit, write
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import CheckpointCreated, SessionCreated
from walrus_protocol.problems import Problem
from walrusd.runtime.hooks import ComposedHook
from walrusd.runtime.sessions import session_cache
from walrusd.runtime.sessions.live_session import LiveSession, SessionDependencies
from walrusd.runtime.sessions.session_cache import SessionCache
from walrusd.runtime.streams.global_stream import GlobalStream
from walrusd.store.errors import StorageFailed
from walrusd.store.expiry import ExpireSession
from walrusd.store.tables.session import SessionSnapshot

SESSIONS = 6
TASKS = 12
STEPS = 40
MAX_IDLE_S = 1.0


class UnreliableLog(MemoryLog):
    """A log whose reads take a random time, and fail now and then."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.loads = 0
        self._random = random

    async def session_snapshot(self, session: int, limit: int, max_bytes: int = 2**20) -> SessionSnapshot | None:
        self.loads += 1
        await trio.sleep(self._random.random())
        if self._random.random() < 0.1:
            raise StorageFailed("cannot read")
        return await super().session_snapshot(session, limit, max_bytes)


class LeaseStressTest:
    """Tasks that lease, extend, create and delete sessions at random, and check what they see."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.log = UnreliableLog(self.random)
        self.cache = SessionCache(
            SessionDependencies(
                log=self.log,
                clock=lambda: 1.0,
                hook=ComposedHook(),
                on_state_mismatch=self._raise_mismatch,
                global_stream=GlobalStream(self.log, lambda: 1.0),
            ),
            MAX_IDLE_S,
        )
        self.recorded: dict[int, int] = {}
        """Number of events recorded in each session that was created."""
        self.deleting: set[int] = set()
        self.deleted: set[int] = set()
        self._users: dict[int, list[LiveSession]] = {}

    async def run_task(self, nursery: trio.Nursery) -> None:
        for _ in range(STEPS):
            await trio.sleep(self.random.random())
            await self.random.choice([self.use, self.use, self.use, self.create, self.delete, self.pin])(nursery)

    async def use(self, nursery: trio.Nursery) -> None:
        session = self._pick()
        try:
            async with self.cache.lease(session) as live:
                with self._using(live):
                    await self._record(live)
                    if self.random.random() < 0.3:
                        nursery.start_soon(self.use_longer, live, self.cache.extend_lease(live))
        except Problem as problem:
            self._check_refusal(session, problem)

    async def use_longer(self, live: LiveSession, end_lease: Callable[[], None]) -> None:
        with self._using(live):
            await trio.sleep(3 * MAX_IDLE_S * self.random.random())
            await self._record(live)
        end_lease()

    async def create(self, _: trio.Nursery) -> None:
        if len(self.recorded) - len(self.deleted) < SESSIONS:
            self.recorded[await self.cache.create(SessionCreated(agent="walrus"))] = 1

    async def pin(self, _: trio.Nursery) -> None:
        session = self._pick()
        async with self.cache.pin(session):
            exists = session in self.recorded and session not in self.deleted
            await trio.sleep(self.random.random())
            assert session not in self.deleting
            assert not exists or session not in self.deleted

    async def delete(self, _: trio.Nursery) -> None:
        remaining = self.recorded.keys() - self.deleted - self.deleting
        with self.cache.try_delete([session for session in remaining if self.random.random() < 0.2]) as chosen:
            for session in chosen:
                assert not self._users.get(session)
                assert self.cache.find_live(session) is None
            self.deleting.update(chosen)
            await trio.sleep(self.random.random())
            if chosen:
                await commit(self.log, write(session=DAEMON_SESSION, mutations=[*map(ExpireSession, chosen)]))
            self.deleted.update(chosen)
            self.deleting.difference_update(chosen)

    def _pick(self) -> int:
        """Returns a session that exists, was deleted, or does not exist yet."""
        return self.random.randint(max(1, len(self.recorded) - SESSIONS), len(self.recorded) + 1)

    async def _record(self, live: LiveSession) -> None:
        await trio.sleep(self.random.random())
        await live.recorder.record(CheckpointCreated(name="a", at=1))
        self.recorded[live.id] += 1

    @contextmanager
    def _using(self, live: LiveSession) -> Iterator[None]:
        users = self._users.setdefault(live.id, [])
        assert all(other is live for other in users), "there are two objects of one session"
        users.append(live)
        self._check_in_use(live)
        try:
            yield
            self._check_in_use(live)
        finally:
            users.remove(live)

    def _check_in_use(self, live: LiveSession) -> None:
        assert self.cache.find_live(live.id) is live, "a leased session was evicted"
        assert live.id not in self.deleting | self.deleted
        assert live.session.state.last_seq >= self.recorded.get(live.id, 1), "an eviction lost an event"

    def _check_refusal(self, session: int, problem: Problem) -> None:
        if problem.kind == "session_not_found":
            assert session in self.deleted or session not in self.recorded
        else:
            assert (problem.kind, problem.data) == ("storage_failed", {"session": session})

    def _raise_mismatch(self, cause: BaseException) -> None:
        raise AssertionError from cause


@pytest.mark.parametrize("max_unleased", [2, 1000])
@pytest.mark.parametrize("seed", range(10))
async def test_a_session_in_use_is_in_memory_once_and_is_neither_evicted_nor_deleted(
    seed: int, max_unleased: int, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_cache, "MAX_UNLEASED", max_unleased)
    test = LeaseStressTest(seed)
    async with trio.open_nursery() as evicting:
        evicting.start_soon(test.cache.evict_loop)
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(test.run_task, nursery)
        assert test.cache.leased_sessions() == ()
        assert test.deleted, "the tasks deleted something"
        assert test.log.loads > STEPS, "evicted sessions were loaded again"
        await trio.sleep(3 * MAX_IDLE_S)
        assert len(test.cache) == 0
        evicting.cancel_scope.cancel()
