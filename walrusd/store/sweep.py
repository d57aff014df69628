"""What nobody can read any more is thrown away, a small piece at a time: found by a reader, and looked at again by the
writer in the transaction that throws it away.
"""

import json
import time
from collections.abc import Callable, Collection
from functools import partial

import apsw
import trio

from walrusd.store.hash_chain import store_digests
from walrusd.store.queries import FULL_BODY_SIZE
from walrusd.store.reader_pool import ReaderPool
from walrusd.store.retention_contract import SweepStats
from walrusd.store.writer import Writer
from walrusd.store.writer_task import WriterTask

BATCH_SIZE = 32
"""Events that are deleted before it is looked at the time."""
MAX_EVENTS = 256
"""Events of a transaction at most."""
MAX_TRANSACTION_S = 0.003
"""And how long it may take, its commit aside: a write that comes meanwhile waits for it."""
MAX_TRANSACTION_BYTES = 1024 * 1024
"""Of outputs: the pages of one are walked to be freed. Of events: where there is a chain, each is read once more."""
VACUUM_PAGES = 64
"""Pages that are given back in a transaction: each may have to be moved."""
RESERVED_FREE_PAGES = 256
"""Of 4 KiB, that are left for what is written next: a file that shrinks and grows all the time does both in vain."""
MERGE_PAGES = 256
"""Pages of the index that are written anew in a transaction."""
LOOKUP_LIMIT = 64
"""Sessions, or outputs, that are looked for at a time."""

# How far a session that is listed no more is still read: by forks that are listed, or that are such remains too.
LAST_INHERITED_SEQ = """
SELECT ifnull(max(seq), 0) FROM fork WHERE parent = :session AND (
    EXISTS (SELECT 1 FROM session WHERE id = child) OR EXISTS (SELECT 1 FROM remains WHERE session = child)
)
"""
SWEEPABLE_SESSIONS = f"""
SELECT session FROM (
    SELECT session, ({LAST_INHERITED_SEQ.replace(":session", "gone.session")}) AS kept FROM remains AS gone
    WHERE NOT EXISTS (SELECT 1 FROM session WHERE id = gone.session)
    AND session NOT IN (SELECT value FROM json_each(:importing))
) AS gone WHERE kept = 0 OR EXISTS (SELECT 1 FROM event WHERE event.session = gone.session AND seq > kept)
LIMIT :most
"""  # noqa: S608 - words of ours
IS_UNLISTED = (
    "SELECT EXISTS (SELECT 1 FROM remains WHERE session = ?1) AND NOT EXISTS (SELECT 1 FROM session WHERE id = ?1)"
)
# From the last one on: what is left is the beginning of a log at any time. One goes always.
LAST_EVENTS = f"""
SELECT "offset" FROM (
    SELECT "offset", seq,
        sum(size) OVER (ORDER BY seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes
    FROM (
        SELECT "offset", seq, {FULL_BODY_SIZE} AS size FROM event
        WHERE session = :session AND seq > :kept ORDER BY seq DESC LIMIT {BATCH_SIZE}
    )
) WHERE ifnull(bytes, 0) < {MAX_TRANSACTION_BYTES} ORDER BY seq DESC
"""  # noqa: S608 - as above
UNREFERENCED_OUTPUTS = """
SELECT ref FROM output WHERE NOT EXISTS (SELECT 1 FROM output_of WHERE output_of.ref = output.ref) LIMIT :most
"""
DELETE_OUTPUT = """
DELETE FROM output WHERE ref = :ref AND NOT EXISTS (SELECT 1 FROM output_of WHERE output_of.ref = :ref)
RETURNING length(body)
"""


class Sweeper:
    """One at a time: who comes while it sweeps finds less left to do."""

    def __init__(self, readers: ReaderPool, writer: Writer) -> None:
        self._readers = readers
        self._writer = writer
        self._lock = trio.Lock()

    async def __call__(self, importing_sessions: Collection[int]) -> SweepStats:
        """Raises StorageFailed; what was done by then stays done."""
        async with self._lock:
            events = await self._sweep_events(importing_sessions)
            outputs = await self._sweep_outputs()
            while await self._run_task(merge_search_index) or await self._run_task(vacuum_step):
                pass
        return SweepStats(events, outputs)

    async def _sweep_events(self, importing_sessions: Collection[int]) -> int:
        """What frees a session may free the one that it goes on from: until there is none."""
        events = 0
        # One may have begun while it was looked for: its rows are there, and who copied the ids did not know it yet.
        while found := [
            one
            for one in await self._readers.read(sweepable_sessions, [*importing_sessions])
            if one not in importing_sessions
        ]:
            for session in found:
                while thrown := await self._run_task(partial(sweep_session, session=session)):
                    events += thrown
        return events

    async def _sweep_outputs(self) -> int:
        outputs = 0
        while refs := await self._readers.read(unreferenced_outputs):
            while refs:
                done = await self._run_task(partial(delete_outputs, refs=refs))
                outputs, refs = outputs + done, refs[done:]
        return outputs

    async def _run_task(self, work: Callable[[apsw.Connection], int]) -> int:
        errand = WriterTask(work)
        self._writer.submit(errand)
        return await errand.wait_result()


def sweepable_sessions(db: apsw.Connection, importing_sessions: Collection[int]) -> list[int]:
    """Sessions of which something can go."""
    bindings = {"importing": json.dumps([*importing_sessions]), "most": LOOKUP_LIMIT}
    return [session for (session,) in db.execute(SWEEPABLE_SESSIONS, bindings)]


def sweep_session(db: apsw.Connection, session: int) -> int:
    """Throw away a piece of what is left of a session; how many events that were. With the last of them it goes too."""
    if not db.execute(IS_UNLISTED, (session,)).get:
        return 0
    kept: int = db.execute(LAST_INHERITED_SEQ, {"session": session}).get
    began, events = time.perf_counter(), 0
    while offsets := [offset for (offset,) in db.execute(LAST_EVENTS, {"session": session, "kept": kept})]:
        store_digests(db, offsets)
        rows = [(offset,) for offset in offsets]
        db.executemany("DELETE FROM said WHERE rowid = ?", rows)
        db.executemany('DELETE FROM event WHERE "offset" = ?', rows)
        events += len(offsets)
        if events >= MAX_EVENTS or time.perf_counter() - began > MAX_TRANSACTION_S:
            return events
    if not kept:
        for table in ("sent", "turn", "output_of"):  # of one whose import was cut off; of others they have long gone
            db.execute(f"DELETE FROM {table} WHERE session = ?", (session,))  # noqa: S608 - words of ours
        db.execute("DELETE FROM remains WHERE session = ?", (session,))
        db.execute("DELETE FROM fork WHERE child = ?", (session,))
    return events


def unreferenced_outputs(db: apsw.Connection) -> list[str]:
    """Outputs that no session has."""
    return [ref for (ref,) in db.execute(UNREFERENCED_OUTPUTS, {"most": LOOKUP_LIMIT})]


def delete_outputs(db: apsw.Connection, refs: list[str]) -> int:
    """Throw away some of these outputs, the first ones; how many."""
    left = MAX_TRANSACTION_BYTES
    for done, ref in enumerate(refs, 1):
        left -= db.execute(DELETE_OUTPUT, {"ref": ref}).get or 0
        if left <= 0:
            return done
    return len(refs)


def merge_search_index(db: apsw.Connection) -> int:
    """Have the index let go of what was deleted, which until then is only marked in it; how much was written for it.

    It does so where that is a tenth of a part of it: what is less costs more than it takes.
    """
    before = db.total_changes()
    db.execute("INSERT INTO said (said, rank) VALUES ('merge', ?)", (MERGE_PAGES,))
    done = db.total_changes() - before
    return done if done > 1 else 0  # the question itself is one


def vacuum_step(db: apsw.Connection) -> int:
    """Give some of the free pages back to the file system; how many."""
    before = db.pragma("freelist_count")
    assert isinstance(before, int)
    if before <= RESERVED_FREE_PAGES:
        return 0
    db.execute(f"PRAGMA incremental_vacuum({min(VACUUM_PAGES, before - RESERVED_FREE_PAGES)})").fetchall()
    after = db.pragma("freelist_count")
    assert isinstance(after, int)
    return before - after
