"""Commits a batch of writes in one transaction, so that one sync serves them all, and reports their outcomes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import apsw
import structlog

from walrusd.store.contract import Write
from walrusd.store.database import BUSY_TIMEOUT_MS
from walrusd.store.errors import StorageFailed, write_error
from walrusd.store.hash_chain import Chain, read_head
from walrusd.store.migrations import schema_version
from walrusd.store.wal_checkpoint import WalCheckpointer
from walrusd.store.write_batch import insert_batch
from walrusd.store.writer_task import WriterTask

log = structlog.get_logger("walrusd")

Item = Write | WriterTask
OutcomeCallback = Callable[[], None]


class Writer(ABC):
    """The connection that writes, and the transactions on it.

    Its subclasses own the queue of items and decide which thread processes it: WriterThread and InlineWriter.
    The queue needs no bound: a session has at most one transaction under way, so the queue holds no more writes than
    there are active sessions.
    """

    def __init__(self, db: apsw.Connection, on_growth: OutcomeCallback) -> None:
        """`on_growth` is called by the processing thread whenever another GROWTH_BYTES were written."""
        self._db = db
        self._on_growth = on_growth
        self._path = db.filename or ":memory:"
        self.last_offset = _read_int(db, "SELECT max(seq) FROM sqlite_sequence WHERE name = 'event'")
        """The highest offset used. Changed by the processing thread only."""
        self.chain_head = read_head(db)
        """The last link on disk, or None if the chain is off. Read it only while no write is under way."""
        self._stored_session_id = _read_int(db, "SELECT value FROM counter WHERE name = 'session_given'")
        self.last_session_id = self._stored_session_id
        """The highest session id used. Changed by trio's thread only; the next batch stores it."""
        self._wal = WalCheckpointer(db, BUSY_TIMEOUT_MS)
        self.warning = ""
        """A warning for the user, or "" if the last write succeeded. Used on trio's thread only.

        It is a text and not the exception, which would keep the failed write in memory.
        """

    @abstractmethod
    def submit(self, item: Item) -> None:
        """Queues an item. Its outcome is reported on trio's thread, after this has returned."""

    @abstractmethod
    async def aclose(self) -> None:
        """Finishes the submitted items; later ones fail. Raises StorageFailed if the disk does not respond."""

    @abstractmethod
    def _deliver(self, outcomes: Sequence[OutcomeCallback]) -> None:
        """Calls the outcomes of a whole batch on trio's thread, in the order of submission.

        No task runs between them.
        """

    def _process(self, batch: Sequence[Item]) -> None:
        """Executes a batch. It is released when this returns: a write keeps its session in memory."""
        writes = [one for one in batch if isinstance(one, Write)]
        outcomes = iter(self._commit_or_split(writes))
        # Barriers succeed at their place among the writes.
        reached = [
            next(outcomes) if isinstance(one, Write) else one.succeeded
            for one in batch
            if isinstance(one, Write) or not one.work
        ]
        if reached:
            self._deliver(reached)
        if writes:
            self._after_commit()
        for one in batch:
            if isinstance(one, WriterTask) and one.work:
                self._run_task(one, one.work)

    def _commit_or_split(self, batch: Sequence[Write]) -> list[OutcomeCallback]:
        if not batch:
            return []
        try:
            return self._commit(batch)
        except apsw.BusyError as error:
            # Another process has locked the database. Separately, each write would wait as long again.
            return [partial(self._report_failed, write, write_error(self._db, error)) for write in batch]
        except Exception as error:  # noqa: BLE001 - a bug is an outcome, too: the submitter waits for one
            if len(batch) == 1:
                return [partial(self._report_failed, batch[0], write_error(self._db, error))]
        return [outcome for write in batch for outcome in self._commit_or_split([write])]

    def _commit(self, batch: Sequence[Write]) -> list[OutcomeCallback]:
        """Commits the whole batch in one transaction; on an exception, nothing of it is committed."""
        session_id, offset = self.last_session_id, self.last_offset
        chain = Chain(self.chain_head) if self.chain_head else None
        outcomes: list[OutcomeCallback] = []
        for write in batch:
            outcomes.append(partial(self._report_committed, write, offset + 1))
            offset += len(write.bodies)
        with self._transaction():
            insert_batch(self._db, batch, self.last_offset + 1, chain)
            if session_id > self._stored_session_id:
                self._db.execute("UPDATE counter SET value = ? WHERE name = 'session_given'", (session_id,))
        self._stored_session_id, self.last_offset = session_id, offset
        if chain:
            self.chain_head = chain.head
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
        """Writes an empty transaction over a failed one.

        If the disk has written a transaction and only its sync failed, it is complete at the end of the write-ahead
        log, although its writers got a failure: the next start would find it. If the disk accepts no more writes, this
        one fails, too; then the next start finds the refused transaction.
        """
        with suppress(apsw.Error):
            # SQLite does not write an unchanged row, but it writes an unchanged header field.
            self._db.pragma("user_version", schema_version(self._db))

    def _after_commit(self) -> None:
        """Makes checkpoints. Called when the outcomes are already sent, so that no writer waits for it."""
        if self._wal.checkpoint_if_needed():
            self._on_growth()

    def _run_task(self, task: WriterTask, work: Callable[[apsw.Connection], int]) -> None:
        try:
            with self._transaction():
                outcome: OutcomeCallback = partial(task.succeeded, work(self._db))
        except Exception as error:  # noqa: BLE001 - as in `_commit_or_split`
            outcome = partial(self._report_failed, task, write_error(self._db, error))
        # Success of a task does not prove that the log can be written: there may have been nothing to write.
        self._deliver([outcome])
        self._after_commit()

    def _store_last_session_id(self) -> None:
        """Stores the highest session id at the end, if no write has used it."""
        with suppress(apsw.Error):
            if self.last_session_id > self._stored_session_id:
                self._commit([])

    def _closed_outcome(self, item: Item) -> OutcomeCallback:
        """Returns the outcome of an item that came too late."""
        return partial(item.failed, StorageFailed(f"{self._path} is closed"))

    def _report_committed(self, write: Write, offset: int) -> None:
        if self.warning:
            log.info("log_writable")
            self.warning = ""
        write.committed(offset)

    def _report_failed(self, item: Item, failure: StorageFailed) -> None:
        if not self.warning:
            log.warning("log_write_failed", error=str(failure), hint=failure.hint)
        self.warning = f"The last write to the log failed: {failure}. {failure.hint}"
        item.failed(failure)


def _read_int(db: apsw.Connection, query: str) -> int:
    value = db.execute(query).get
    return value if isinstance(value, int) else 0
