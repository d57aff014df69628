"""Deletes events and outputs that can no longer be read, in small transactions.

A reader finds the candidates; the writer checks each again in the transaction that deletes it.
"""

import json
import time
from collections.abc import Callable, Collection
from functools import partial

import apsw
import trio

from walrus_protocol.database.schema import FULL_BODY_SIZE
from walrusd.store.expiry import DELETE_ALL
from walrusd.store.hash_chain import store_digests
from walrusd.store.reader_pool import Readers
from walrusd.store.retention_contract import SweepStats
from walrusd.store.tables import event
from walrusd.store.writer import Writer
from walrusd.store.writer_task import WriterTask

BATCH_SIZE = 32
"""Number of events that are deleted between two checks of the time limit."""
MAX_EVENTS = 256
"""Number of events after which a transaction ends."""
MAX_TRANSACTION_S = 0.003
"""Seconds after which a transaction ends, without its commit: a concurrent write waits for it."""
MAX_TRANSACTION_BYTES = 1024 * 1024
"""Maximum bytes of outputs deleted per transaction, and of events per batch.

SQLite reads the pages of outputs to free them; with a chain, each event is read again.
"""
VACUUM_PAGES = 64
"""Maximum pages returned to the file system per transaction: each may have to be moved."""
RESERVED_FREE_PAGES = 256
"""Number of 4 KiB pages kept free for later writes, so that the file does not shrink and grow again."""
MERGE_PAGES = 256
"""Maximum pages of the search index that are rewritten per transaction."""
LOOKUP_LIMIT = 64
"""Maximum sessions, or outputs, per look-up."""

# The last seq of a deleted session that is still read: by listed forks, or by deleted ones that still have events.
LAST_INHERITED_SEQ = """
SELECT ifnull(max(seq), 0) FROM fork WHERE parent = :session AND (
    EXISTS (SELECT 1 FROM session WHERE id = child) OR EXISTS (SELECT 1 FROM remains WHERE session = child)
)
"""
SWEEPABLE_SESSIONS = f"""
SELECT session FROM (
    SELECT session, ({LAST_INHERITED_SEQ.replace(":session", "swept.session")}) AS inherited FROM remains AS swept
    WHERE NOT EXISTS (SELECT 1 FROM session WHERE id = swept.session)
    AND session NOT IN (SELECT value FROM json_each(:importing))
) AS swept WHERE inherited = 0 OR EXISTS (SELECT 1 FROM event WHERE event.session = swept.session AND seq > inherited)
LIMIT :limit
"""  # noqa: S608 - only our own text
IS_UNLISTED = (
    "SELECT EXISTS (SELECT 1 FROM remains WHERE session = ?1) AND NOT EXISTS (SELECT 1 FROM session WHERE id = ?1)"
)
# The last events come first, so that the rest is always the beginning of a log. At least one event is selected.
LAST_EVENTS = f"""
SELECT "offset" FROM (
    SELECT "offset", seq,
        sum(size) OVER (ORDER BY seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes
    FROM (
        SELECT "offset", seq, {FULL_BODY_SIZE} AS size FROM event
        WHERE session = :session AND seq > :inherited ORDER BY seq DESC LIMIT {BATCH_SIZE}
    )
) WHERE ifnull(bytes, 0) < {MAX_TRANSACTION_BYTES} ORDER BY seq DESC
"""  # noqa: S608 - as above
UNREFERENCED_OUTPUTS = """
SELECT ref FROM output WHERE NOT EXISTS (SELECT 1 FROM output_of WHERE output_of.ref = output.ref) LIMIT :limit
"""
DELETE_OUTPUT = """
DELETE FROM output WHERE ref = :ref AND NOT EXISTS (SELECT 1 FROM output_of WHERE output_of.ref = :ref)
RETURNING length(body)
"""


class Sweeper:
    """Runs sweeps, one at a time: a call during a sweep waits and then finds less to do."""

    def __init__(self, readers: Readers, writer: Writer) -> None:
        self._readers = readers
        self._writer = writer
        self._lock = trio.Lock()

    async def __call__(self, importing_sessions: Collection[int]) -> SweepStats:
        """Sweeps everything and returns what was deleted.

        Raises StorageFailed; earlier transactions of the sweep stay committed.
        """
        async with self._lock:
            events = await self._sweep_events(importing_sessions)
            outputs = await self._sweep_outputs()
            while await self._run_task(merge_search_index) or await self._run_task(vacuum_step):
                pass
        return SweepStats(events, outputs)

    async def _sweep_events(self, importing_sessions: Collection[int]) -> int:
        """Deletes events until no session has any to delete: deleting a fork may make its parent deletable."""
        events = 0
        # An import may have begun during the look-up, with an id that the copy of the set did not contain yet.
        while found := [
            one
            for one in await self._readers.read(sweepable_sessions, [*importing_sessions])
            if one not in importing_sessions
        ]:
            for session in found:
                while deleted := await self._run_task(partial(sweep_session, session=session)):
                    events += deleted
        return events

    async def _sweep_outputs(self) -> int:
        outputs = 0
        while refs := await self._readers.read(unreferenced_outputs):
            while refs:
                deleted = await self._run_task(partial(delete_outputs, refs=refs))
                outputs, refs = outputs + deleted, refs[deleted:]
        return outputs

    async def _run_task(self, work: Callable[[apsw.Connection], int]) -> int:
        task = WriterTask(work)
        self._writer.submit(task)
        return await task.wait()


def sweepable_sessions(db: apsw.Connection, importing_sessions: Collection[int]) -> list[int]:
    """Returns unlisted sessions that have events to delete, or that can be removed altogether."""
    bindings = {"importing": json.dumps([*importing_sessions]), "limit": LOOKUP_LIMIT}
    return [session for (session,) in db.execute(SWEEPABLE_SESSIONS, bindings)]


def sweep_session(db: apsw.Connection, session: int) -> int:
    """Deletes some events of an unlisted session and returns their number.

    With the last event it also deletes the session's other rows.
    """
    if not db.execute(IS_UNLISTED, (session,)).get:
        return 0
    inherited: int = db.execute(LAST_INHERITED_SEQ, {"session": session}).get
    started, events = time.perf_counter(), 0
    while offsets := [offset for (offset,) in db.execute(LAST_EVENTS, {"session": session, "inherited": inherited})]:
        store_digests(db, offsets)
        rows = [(offset,) for offset in offsets]
        db.executemany("DELETE FROM said WHERE rowid = ?", rows)
        db.executemany(event.DELETE, rows)
        events += len(offsets)
        if events >= MAX_EVENTS or time.perf_counter() - started > MAX_TRANSACTION_S:
            return events
    if not inherited:
        for statement in DELETE_ALL:
            db.execute(statement, (session,))
    return events


def unreferenced_outputs(db: apsw.Connection) -> list[str]:
    """Returns the refs of outputs that no session has."""
    return [ref for (ref,) in db.execute(UNREFERENCED_OUTPUTS, {"limit": LOOKUP_LIMIT})]


def delete_outputs(db: apsw.Connection, refs: list[str]) -> int:
    """Deletes the first of these outputs, up to MAX_TRANSACTION_BYTES; returns how many it processed."""
    remaining = MAX_TRANSACTION_BYTES
    for count, ref in enumerate(refs, 1):
        remaining -= db.execute(DELETE_OUTPUT, {"ref": ref}).get or 0
        if remaining <= 0:
            return count
    return len(refs)


def merge_search_index(db: apsw.Connection) -> int:
    """Removes entries that are marked as deleted from the search index; returns the changes.

    FTS5 does it only for parts of the index of which a tenth is deleted: for less, it costs more than it frees.
    """
    before = db.total_changes()
    db.execute("INSERT INTO said (said, rank) VALUES ('merge', ?)", (MERGE_PAGES,))
    changes = db.total_changes() - before
    return changes if changes > 1 else 0  # the merge command itself counts as one change


def vacuum_step(db: apsw.Connection) -> int:
    """Returns some of the free pages to the file system; the result is their number."""
    before = db.pragma("freelist_count")
    assert isinstance(before, int)
    if before <= RESERVED_FREE_PAGES:
        return 0
    db.execute(f"PRAGMA incremental_vacuum({min(VACUUM_PAGES, before - RESERVED_FREE_PAGES)})").fetchall()
    after = db.pragma("freelist_count")
    assert isinstance(after, int)
    return before - after
