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

from walrusd.store.contract import StorageFailed, Write
from walrusd.store.database import BUSY_TIMEOUT_MS, close_quietly
from walrusd.store.errors import write_error
from walrusd.store.gil_yield import GilYieldInstrument
from walrusd.store.hash_chain import Chain, read_head
from walrusd.store.migrations import schema_version
from walrusd.store.wal_checkpoint import WalCheckpointer
from walrusd.store.write_batch import insert_batch
from walrusd.store.write_health import WriteHealth
from walrusd.store.writer_barrier import WriterBarrier
from walrusd.store.writer_task import WriterTask

MAX_BATCH = 512
"""Writes in a transaction at most: beyond it the first would wait long for little, the sync being shared enough."""

OutcomeCallback = Callable[[], None]


class Writer:
    """Owns a connection until it is told to stop.

    The queue has no bound of its own: a session has one transaction under way, so it holds no more writes than there
    are sessions at work.
    """

    def __init__(
        self,
        db: apsw.Connection,
        token: trio.lowlevel.TrioToken,
        gil_yield: GilYieldInstrument,
        on_growth: OutcomeCallback,
    ) -> None:
        """`grown` is called on trio's thread when GROWTH bytes were written since the last time."""
        self._db = db
        self._on_growth = on_growth
        self._path = db.filename
        self._token = token
        self._gil_yield = gil_yield
        self._queue: SimpleQueue[Write | WriterBarrier | WriterTask | None] = SimpleQueue()
        self.last_offset = _read_int(db, "SELECT max(seq) FROM sqlite_sequence WHERE name = 'event'")
        """The highest that was given. Written by its thread only."""
        self.chain_head = read_head(db)
        """The last link on the disk; None where the chain is off. Read when nothing is under way."""
        self._stored_session_id = _read_int(db, "SELECT value FROM counter WHERE name = 'session_given'")
        self.last_session_id = self._stored_session_id
        """The highest session id handed out. Written by trio's thread only; it goes to the disk with the next batch."""
        self._wal = WalCheckpointer(db, BUSY_TIMEOUT_MS)
        self.health = WriteHealth()
        self._ended = False
        # A daemon thread: when trio's run ended without aclose, nobody is left to stop it.
        self._thread = threading.Thread(target=self._run, name="walrusd-store-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, item: Write | WriterBarrier | WriterTask) -> None:
        self._gil_yield.submitted()
        self._queue.put(item)
        if self._ended:
            self._fail_remaining()

    def stop(self) -> None:
        """Ask it to finish what was submitted and to close the connection."""
        self._queue.put(None)

    def join(self, timeout_s: float) -> bool:
        """Whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._process(self._next_batch()):
                pass
        except trio.RunFinishedError:
            pass  # nobody is left to be told; what was committed stays
        finally:
            self._close()
            self._ended = True
            self._fail_remaining()

    def _process(self, batch: Sequence[Write | WriterBarrier | WriterTask]) -> bool:
        """Whether there was anything. It is let go then: a write holds the session that it is of in memory."""
        errands = [one for one in batch if isinstance(one, WriterTask)]
        if others := [one for one in batch if not isinstance(one, WriterTask)]:
            writes = [one for one in others if isinstance(one, Write)]
            self._token.run_sync_soon(self._deliver, _interleave_barriers(others, self._commit_or_split(writes)))
            if writes:
                self._after_commit()
        for errand in errands:
            self._run_task(errand)
        return bool(batch)

    def _next_batch(self) -> list[Write | WriterBarrier | WriterTask]:
        """The next batch, waited for; empty when it is time to stop."""
        batch: list[Write | WriterBarrier | WriterTask] = []
        while one := self._queue.get():
            batch.append(one)
            if len(batch) == MAX_BATCH or self._queue.empty():
                return batch
        if batch:
            self._queue.put(None)
        return batch

    def _commit_or_split(self, batch: Sequence[Write]) -> list[OutcomeCallback]:
        if not batch:
            return []
        try:
            return self._commit(batch)
        except apsw.BusyError as error:
            # Another process holds the database. Alone, each would wait as long for it again.
            return [partial(self._report_failed, write, write_error(self._db, error)) for write in batch]
        except Exception as error:  # noqa: BLE001 - a bug, too, is an outcome: whoever submitted waits for one
            if len(batch) == 1:
                return [partial(self._report_failed, batch[0], write_error(self._db, error))]
        return [outcome for write in batch for outcome in self._commit_or_split([write])]

    def _commit(self, batch: Sequence[Write]) -> list[OutcomeCallback]:
        """All of the batch in one transaction, or an exception and nothing."""
        given, offset, chained = self.last_session_id, self.last_offset, Chain(self.chain_head)
        outcomes: list[OutcomeCallback] = []
        for write in batch:
            outcomes.append(partial(self._report_committed, write, offset + 1))
            offset += len(write.bodies)
        with self._transaction():
            insert_batch(self._db, batch, self.last_offset + 1, chained)
            if given > self._stored_session_id:
                self._db.execute("UPDATE counter SET value = ? WHERE name = 'session_given'", (given,))
        self._stored_session_id, self.last_offset, self.chain_head = given, offset, chained.head
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
            self._write_covering_commit()
            raise

    def _write_covering_commit(self) -> None:
        """Lay a transaction that says nothing over what has failed.

        Where the disk has taken a transaction and only its sync failed, it stands whole at the end of the write-ahead
        log, though everybody was told that it is not: the next start would find it. A disk that takes nothing more
        keeps this out, too; then that start finds what was refused.
        """
        with suppress(apsw.Error):
            # SQLite writes no row that stays as it is; a header it does.
            self._db.pragma("user_version", schema_version(self._db))

    def _after_commit(self) -> None:
        """Done when the outcomes are on their way, so that nobody waits for it."""
        if self._wal.checkpoint_if_needed():
            self._token.run_sync_soon(self._on_growth)

    def _run_task(self, task: WriterTask) -> None:
        try:
            with self._transaction():
                outcome = task.run(self._db)
        except Exception as error:  # noqa: BLE001 - as in `_settle`
            outcome = partial(self._report_failed, task, write_error(self._db, error))
        # Done well it does not say that the log can be written: it may have found nothing to write.
        self._token.run_sync_soon(self._deliver, [outcome])
        self._after_commit()

    def _close(self) -> None:
        try:
            if self.last_session_id > self._stored_session_id:
                self._commit([])
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.Error:
            pass  # all that was acknowledged is in the write-ahead log; the next start goes on from there
        close_quietly(self._db)

    def _fail_remaining(self) -> None:
        """Fail what came too late. The thread does it when it ends, `submit` from then on: none is forgotten."""
        with suppress(Empty, trio.RunFinishedError):
            while True:
                if one := self._queue.get_nowait():
                    failed: OutcomeCallback = partial(one.failed, StorageFailed(f"{self._path} is closed"))
                    self._token.run_sync_soon(self._deliver, [failed])

    def _deliver(self, outcomes: list[OutcomeCallback]) -> None:
        """On trio's thread: a whole batch, in the order of submission, before any task runs again."""
        self._gil_yield.delivered(len(outcomes))
        for outcome in outcomes:
            outcome()

    def _report_committed(self, write: Write, offset: int) -> None:
        self.health.succeeded()
        write.committed(offset)

    def _report_failed(self, item: Write | WriterTask, failure: StorageFailed) -> None:
        self.health.failed(failure)
        item.failed(failure)


def _interleave_barriers(
    batch: Sequence[Write | WriterBarrier], write_outcomes: Sequence[OutcomeCallback]
) -> list[OutcomeCallback]:
    """A pulse is answered in its place among the writes, whatever became of them."""
    outcomes = iter(write_outcomes)
    return [one.succeeded if isinstance(one, WriterBarrier) else next(outcomes) for one in batch]


def _read_int(db: apsw.Connection, query: str) -> int:
    value = db.execute(query).get
    return value if isinstance(value, int) else 0
