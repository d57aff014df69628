"""The one thread that writes: it takes what waits, makes one transaction of it and hands the outcomes back.

While a transaction is synced to the disk the next one gathers, so that one sync serves all who wait for it.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

import apsw
import trio

from walrusd.store.database import let_go
from walrusd.store.giveway import GiveWay
from walrusd.store.log import StorageFailed, Write
from walrusd.store.pulse import Pulse
from walrusd.store.refusals import write_failure
from walrusd.store.rows import put

BATCH = 512
"""Writes in a transaction at most: beyond it the first would wait long for little, the sync being shared enough."""
CHECKPOINT_PAGES = 1000
"""4 MiB of the write-ahead log: SQLite's own measure."""
TRUNCATE_PAGES = 16 * CHECKPOINT_PAGES
"""A log this long has readers who never all pause: it is worth waiting for them once."""

Outcome = Callable[[], None]


class Writer:
    """Owns a connection until it is told to stop.

    The queue has no bound of its own: a session has one transaction under way, so it holds no more writes than there
    are sessions at work.
    """

    def __init__(self, db: apsw.Connection, token: trio.lowlevel.TrioToken, give_way: GiveWay) -> None:
        self._db = db
        self._path = db.filename
        self._token = token
        self._give_way = give_way
        self._waiting: SimpleQueue[Write | Pulse | None] = SimpleQueue()
        self._offset = _number(db, "SELECT max(seq) FROM sqlite_sequence WHERE name = 'event'")
        self._given_before = _number(db, "SELECT value FROM counter WHERE name = 'session_given'")
        self.given = self._given_before
        """The highest session id handed out. Written by trio's thread only; it goes to the disk with the next batch."""
        self._truncate_at = TRUNCATE_PAGES
        self._ended = False
        # A daemon thread: when trio's run ended without aclose, nobody is left to stop it.
        self._thread = threading.Thread(target=self._run, name="walrusd-store-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, one: Write | Pulse) -> None:
        self._give_way.submitted()
        self._waiting.put(one)
        if self._ended:
            self._refuse()

    def stop(self) -> None:
        """Ask it to finish what was submitted and to close the connection."""
        self._waiting.put(None)

    def join(self, timeout_s: float) -> bool:
        """Whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while batch := self._gather():
                writes = [one for one in batch if isinstance(one, Write)]
                self._token.run_sync_soon(self._deliver, _in_order(batch, self._settle(writes)))
                if writes:
                    self._checkpoint()
        except trio.RunFinishedError:
            pass  # nobody is left to be told; what was committed stays
        finally:
            self._close()
            self._ended = True
            self._refuse()

    def _gather(self) -> list[Write | Pulse]:
        """The next batch, waited for; empty when it is time to stop."""
        batch: list[Write | Pulse] = []
        while one := self._waiting.get():
            batch.append(one)
            if len(batch) == BATCH or self._waiting.empty():
                return batch
        if batch:
            self._waiting.put(None)
        return batch

    def _settle(self, batch: Sequence[Write]) -> list[Outcome]:
        if not batch:
            return []
        try:
            return self._commit(batch)
        except apsw.BusyError as error:
            # Another process holds the database. Alone, each would wait as long for it again.
            return [partial(write.failed, write_failure(self._db, error)) for write in batch]
        except Exception as error:  # noqa: BLE001 - a bug, too, is an outcome: whoever submitted waits for one
            if len(batch) == 1:
                return [partial(batch[0].failed, write_failure(self._db, error))]
        return [outcome for write in batch for outcome in self._settle([write])]

    def _commit(self, batch: Sequence[Write]) -> list[Outcome]:
        """All of the batch in one transaction, or an exception and nothing."""
        given, offset = self.given, self._offset
        outcomes: list[Outcome] = []
        for write in batch:
            outcomes.append(partial(write.committed, offset + 1))
            offset += len(write.bodies)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            put(self._db, batch, self._offset + 1)
            if given > self._given_before:
                self._db.execute("UPDATE counter SET value = ? WHERE name = 'session_given'", (given,))
            self._db.execute("COMMIT")
        except BaseException:
            # On a full disk or an I/O error SQLite may have rolled back by itself.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._given_before, self._offset = given, offset
        return outcomes

    def _checkpoint(self) -> None:
        """Keep the write-ahead log short. Done when the outcomes are on their way, so that nobody waits for it."""
        try:
            pages, saved = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            if pages >= self._truncate_at:
                self._truncate_at = pages + TRUNCATE_PAGES
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                self._truncate_at = TRUNCATE_PAGES
            elif pages - saved >= CHECKPOINT_PAGES:
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error:
            pass  # nothing is lost by it: the write-ahead log is part of the database, and the next batch tries again

    def _close(self) -> None:
        try:
            if self.given > self._given_before:
                self._commit([])
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.Error:
            pass  # all that was acknowledged is in the write-ahead log; the next start goes on from there
        let_go(self._db)

    def _refuse(self) -> None:
        """Fail what came too late. The thread does it when it ends, `submit` from then on: none is forgotten."""
        with suppress(Empty, trio.RunFinishedError):
            while True:
                if one := self._waiting.get_nowait():
                    failed: Outcome = partial(one.failed, StorageFailed(f"{self._path} is closed"))
                    self._token.run_sync_soon(self._deliver, [failed])

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """On trio's thread: a whole batch, in the order of submission, before any task runs again."""
        self._give_way.delivered(len(outcomes))
        for outcome in outcomes:
            outcome()


def _in_order(batch: Sequence[Write | Pulse], settled: Sequence[Outcome]) -> list[Outcome]:
    """A pulse is answered in its place among the writes, whatever became of them."""
    outcomes = iter(settled)
    return [one.answered if isinstance(one, Pulse) else next(outcomes) for one in batch]


def _number(db: apsw.Connection, query: str) -> int:
    value = db.execute(query).get
    return value if isinstance(value, int) else 0
