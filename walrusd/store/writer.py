"""The one thread that writes: it takes what waits, makes one transaction of it and hands the outcomes back.

While a transaction is synced to the disk the next one gathers, so that one sync serves all who wait for it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue

import apsw
import trio

from walrusd.store.chain import Chain, head
from walrusd.store.database import BUSY_MS, let_go
from walrusd.store.errand import Errand
from walrusd.store.giveway import GiveWay
from walrusd.store.lastwrite import LastWrite
from walrusd.store.log import StorageFailed, Write
from walrusd.store.migrations import schema_version
from walrusd.store.pulse import Pulse
from walrusd.store.refusals import write_failure
from walrusd.store.rows import put
from walrusd.store.wal import WriteAheadLog

BATCH = 512
"""Writes in a transaction at most: beyond it the first would wait long for little, the sync being shared enough."""

Outcome = Callable[[], None]


class Writer:
    """Owns a connection until it is told to stop.

    The queue has no bound of its own: a session has one transaction under way, so it holds no more writes than there
    are sessions at work.
    """

    def __init__(self, db: apsw.Connection, token: trio.lowlevel.TrioToken, give_way: GiveWay, grown: Outcome) -> None:
        """`grown` is called on trio's thread when GROWTH bytes were written since the last time."""
        self._db = db
        self._grown = grown
        self._path = db.filename
        self._token = token
        self._give_way = give_way
        self._waiting: SimpleQueue[Write | Pulse | Errand | None] = SimpleQueue()
        self.offset = _number(db, "SELECT max(seq) FROM sqlite_sequence WHERE name = 'event'")
        """The highest that was given. Written by its thread only."""
        self.head = head(db)
        """The last link on the disk; None where the chain is off. Read when nothing is under way."""
        self._given_before = _number(db, "SELECT value FROM counter WHERE name = 'session_given'")
        self.given = self._given_before
        """The highest session id handed out. Written by trio's thread only; it goes to the disk with the next batch."""
        self._wal = WriteAheadLog(db, BUSY_MS)
        self.last_write = LastWrite()
        self._ended = False
        # A daemon thread: when trio's run ended without aclose, nobody is left to stop it.
        self._thread = threading.Thread(target=self._run, name="walrusd-store-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, one: Write | Pulse | Errand) -> None:
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
            while self._work_off(self._gather()):
                pass
        except trio.RunFinishedError:
            pass  # nobody is left to be told; what was committed stays
        finally:
            self._close()
            self._ended = True
            self._refuse()

    def _work_off(self, batch: Sequence[Write | Pulse | Errand]) -> bool:
        """Whether there was anything. It is let go then: a write holds the session that it is of in memory."""
        errands = [one for one in batch if isinstance(one, Errand)]
        if others := [one for one in batch if not isinstance(one, Errand)]:
            writes = [one for one in others if isinstance(one, Write)]
            self._token.run_sync_soon(self._deliver, _in_order(others, self._settle(writes)))
            if writes:
                self._after_writing()
        for errand in errands:
            self._run_errand(errand)
        return bool(batch)

    def _gather(self) -> list[Write | Pulse | Errand]:
        """The next batch, waited for; empty when it is time to stop."""
        batch: list[Write | Pulse | Errand] = []
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
            return [partial(self._failed, write, write_failure(self._db, error)) for write in batch]
        except Exception as error:  # noqa: BLE001 - a bug, too, is an outcome: whoever submitted waits for one
            if len(batch) == 1:
                return [partial(self._failed, batch[0], write_failure(self._db, error))]
        return [outcome for write in batch for outcome in self._settle([write])]

    def _commit(self, batch: Sequence[Write]) -> list[Outcome]:
        """All of the batch in one transaction, or an exception and nothing."""
        given, offset, chained = self.given, self.offset, Chain(self.head)
        outcomes: list[Outcome] = []
        for write in batch:
            outcomes.append(partial(self._committed, write, offset + 1))
            offset += len(write.bodies)
        with self._transaction():
            put(self._db, batch, self.offset + 1, chained)
            if given > self._given_before:
                self._db.execute("UPDATE counter SET value = ? WHERE name = 'session_given'", (given,))
        self._given_before, self.offset, self.head = given, offset, chained.head
        return outcomes

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # On a full disk or an I/O error SQLite may have rolled back by itself.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._cover()
            raise

    def _cover(self) -> None:
        """Lay a transaction that says nothing over what has failed.

        Where the disk has taken a transaction and only its sync failed, it stands whole at the end of the write-ahead
        log, though everybody was told that it is not: the next start would find it. A disk that takes nothing more
        keeps this out, too; then that start finds what was refused.
        """
        with suppress(apsw.Error):
            # SQLite writes no row that stays as it is; a header it does.
            self._db.pragma("user_version", schema_version(self._db))

    def _after_writing(self) -> None:
        """Done when the outcomes are on their way, so that nobody waits for it."""
        if self._wal.keep_short():
            self._token.run_sync_soon(self._grown)

    def _run_errand(self, errand: Errand) -> None:
        try:
            with self._transaction():
                outcome = errand.run(self._db)
        except Exception as error:  # noqa: BLE001 - as in `_settle`
            outcome = partial(self._failed, errand, write_failure(self._db, error))
        # Done well it does not say that the log can be written: it may have found nothing to write.
        self._token.run_sync_soon(self._deliver, [outcome])
        self._after_writing()

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

    def _committed(self, write: Write, offset: int) -> None:
        self.last_write.went_well()
        write.committed(offset)

    def _failed(self, one: Write | Errand, failure: StorageFailed) -> None:
        self.last_write.failed(failure)
        one.failed(failure)


def _in_order(batch: Sequence[Write | Pulse], settled: Sequence[Outcome]) -> list[Outcome]:
    """A pulse is answered in its place among the writes, whatever became of them."""
    outcomes = iter(settled)
    return [one.answered if isinstance(one, Pulse) else next(outcomes) for one in batch]


def _number(db: apsw.Connection, query: str) -> int:
    value = db.execute(query).get
    return value if isinstance(value, int) else 0
