"""Expires sessions and sweeps their rows, and checks what is left afterwards."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.runtime.model_based.archive import Archive
from tests.runtime.model_based.controllable_store import ControllableStore
from tests.runtime.model_based.disks import DiskContents
from tests.runtime.model_based.operations import ExpireSessions
from tests.runtime.model_based.store_contents import StoreContents
from walrus_config.schema import StorageSettings
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import AnySessionEvent, SessionCreated, SessionsExpired
from walrus_protocol.problems import Problem
from walrusd.export_import.exporter import Exporter
from walrusd.retention.collector import RetentionCollector
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest

DAY_S = 86_400.0


class RetentionDriver:
    """The retention collector of one run. `on_sessions_expired` is called with each expiry."""

    def __init__(
        self, runtime: Runtime, store: ControllableStore, on_sessions_expired: Callable[[SessionsExpired], None]
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._settings = StorageSettings()
        self._collector = RetentionCollector(
            store,
            runtime.session_cache,
            runtime.daemon_recorder,
            storage_settings=lambda: self._settings,
            clock=lambda: trio.current_time() + 1,  # a session closed at this moment counts as closed before it
            on_event=on_sessions_expired,
        )

    async def expire(self, operation: ExpireSessions) -> None:
        """Expires sessions by age, or one to get below the quota."""
        self._store.sweep_enabled = operation.sweeps
        if operation.over_quota:
            self._settings = StorageSettings(max_db_bytes=(await self._store.space_usage()).used_bytes - 1)
        else:
            self._settings = StorageSettings(retain_closed_days=operation.keep_s / DAY_S)
        await self._collector.collect(dry_run=False)

    async def sweep(self) -> None:
        """Deletes the rows of expired sessions."""
        self._store.sweep_enabled = True
        self._settings = StorageSettings()
        await self._collector.collect(dry_run=False)

    async def check_all_expired(self, operation: ExpireSessions) -> None:
        """Checks that all closed sessions without a lease expire."""
        await self.expire(operation)
        contents = await StoreContents.read(self._store.log)
        closed = {session for session, stored in contents.sessions.items() if stored.state.state == "closed"}
        leased = {*self._runtime.session_cache.leased_sessions()}
        assert closed <= leased, f"{closed - leased} are closed, but do not expire"

    async def check_not_found(self, session: int) -> None:
        """Checks that every request for the session is refused, and that a search does not find it."""
        runtime, log = self._runtime, self._store.log

        async def write(_: str) -> None:
            await trio.lowlevel.checkpoint()
            raise AssertionError("an expired session is not exported")

        requests: list[Callable[[], Awaitable[object]]] = [
            lambda: runtime.session(session),
            runtime.session_cache.lease(session).__aenter__,
            lambda: runtime.send(session, MessageRequest(content="Hello?")),
            lambda: runtime.interrupt(session),
            lambda: runtime.close_session(session, force=True),
            lambda: runtime.wait(session, {"closed"}),
            lambda: runtime.fork_rewind.fork(session),
            lambda: runtime.fork_rewind.rewind(session, 1),
            lambda: runtime.fork_rewind.checkpoint(session, "a"),
            lambda: runtime.fork_rewind.checkpoints(session),
            lambda: runtime.fork_rewind.history(session),
            lambda: Exporter(log, session, write, trio.Lock()).write_document(0.0, "0"),
        ]
        for request in requests:
            with pytest.raises(Problem) as caught:
                await request()
            assert caught.value.kind == "session_not_found"
        hits = await log.search(f'"{session}"')
        assert session not in {hit.session for hit in hits}


def check_disk_contents(contents: StoreContents, on_disk: DiskContents, archive: Archive) -> None:
    """Checks that after the last sweep all needed rows are on disk, and nothing else."""
    needed = {
        session: [row.seq for row in rows] for session, rows in {**contents.rows, **contents.inherited_rows}.items()
    }
    assert on_disk.seqs == needed | (
        {DAEMON_SESSION: [row.seq for row in contents.daemon_rows]} if contents.daemon_rows else {}
    )
    assert on_disk.with_side_rows <= contents.rows.keys(), "rows in other tables are deleted with their session"
    assert on_disk.with_parent == {session for session in needed if _has_parent(archive.logs[session][0])}
    assert on_disk.unlisted == contents.inherited_rows.keys()
    assert on_disk.orphan_rows == 0


def _has_parent(created: AnySessionEvent) -> bool:
    return isinstance(created, SessionCreated) and created.parent is not None
