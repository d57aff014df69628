"""Keeps the write-ahead log short by frequent checkpoints.

A checkpoint copies the log into the database. The log is truncated when its readers permit that.
"""

import apsw

from walrusd.store.retention_contract import GROWTH_BYTES

PAGE_BYTES = 4096
"""Bytes of a database page."""
CHECKPOINT_PAGES = GROWTH_BYTES // PAGE_BYTES
"""Pages of the log missing in the database, above which a checkpoint runs: about SQLite's default."""
TRUNCATE_PAGES = 2 * CHECKPOINT_PAGES
"""Pages (8 MiB) of the log above which it is truncated.

The readers never all pause, so waiting once is worth it.
"""
RETRY_PAGES = CHECKPOINT_PAGES // 2
"""Pages by which the log must grow before the next attempt, if a reader was too slow for the last one."""
MAX_WAIT_MS = 200
"""Milliseconds to wait for readers at a truncation: walrusd's own read one page and pause."""
FOREIGN_READER_PAGES = 10 * CHECKPOINT_PAGES
"""Pages (40 MiB) of the log that are only reached if another program holds a snapshot.

Attempts then become rarer, so that turns do not wait for it again and again.
"""
MAX_OWN_WAL_BYTES = 16 * 1024 * 1024
"""Bytes of the log that walrusd's own readers never make it exceed."""


class WalCheckpointer:
    """Makes the checkpoints on the writer's connection."""

    def __init__(self, db: apsw.Connection, busy_timeout_ms: int) -> None:
        """`busy_timeout_ms` is the lock timeout of the connection outside of truncations."""
        self._db = db
        self._busy_timeout_ms = busy_timeout_ms
        self._truncate_at = TRUNCATE_PAGES
        self._last_pages = 0
        self._written_pages = 0

    def checkpoint_if_needed(self) -> bool:
        """Makes a checkpoint if the log is long enough. Call it after each write.

        Returns True once GROWTH_BYTES were written since it last returned True.
        """
        try:
            pages, copied = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            if pages < 0:  # a database in memory has no log to copy; it grows itself
                return self._has_grown(_used_pages(self._db))
            if pages < self._last_pages:
                self._truncate_at = TRUNCATE_PAGES  # the log has restarted: the reader that held it is done
            if pages >= self._truncate_at:
                self._truncate_at = pages + (RETRY_PAGES if pages < FOREIGN_READER_PAGES else pages // 2)
                self._truncate()
                self._truncate_at = TRUNCATE_PAGES
            elif pages - copied >= CHECKPOINT_PAGES:
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error:
            # Nothing is lost: the write-ahead log is part of the database, and the next batch tries again.
            return False
        return self._has_grown(pages)

    def _truncate(self) -> None:
        self._db.set_busy_timeout(MAX_WAIT_MS)
        try:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._db.set_busy_timeout(self._busy_timeout_ms)

    def _has_grown(self, pages: int) -> bool:
        self._written_pages += pages - self._last_pages if pages >= self._last_pages else pages  # the log has restarted
        self._last_pages = pages
        if self._written_pages < CHECKPOINT_PAGES:
            return False
        self._written_pages = 0
        return True


def _used_pages(db: apsw.Connection) -> int:
    used: int = db.execute("SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count").get
    return used
