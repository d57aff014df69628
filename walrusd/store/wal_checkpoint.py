"""The write-ahead log is kept short: written back into the database often, and begun anew where readers let it."""

import apsw

from walrusd.store.retention_contract import GROWTH_BYTES

PAGE_BYTES = 4096
CHECKPOINT_PAGES = GROWTH_BYTES // PAGE_BYTES
"""SQLite's own measure, about."""
TRUNCATE_PAGES = 2 * CHECKPOINT_PAGES
"""A log of 8 MiB has readers who never all pause: it is worth waiting for them once."""
RETRY_PAGES = CHECKPOINT_PAGES // 2
"""Where one of them was slow, it is tried again after so many more."""
MAX_WAIT_MS = 200
"""For how long: ours read a page and pause."""
FOREIGN_READER_PAGES = 10 * CHECKPOINT_PAGES
"""Of 40 MiB: somebody holds on, for hours perhaps, and is not worth a turn's wait time and again."""
MAX_OWN_WAL_BYTES = 16 * 1024 * 1024
"""No reader of walrusd's own brings it beyond this."""


class WalCheckpointer:
    """That of the writer's connection."""

    def __init__(self, db: apsw.Connection, busy_timeout_ms: int) -> None:
        """`busy_ms`: how long the connection waits for others at other times."""
        self._db = db
        self._busy_timeout_ms = busy_timeout_ms
        self._truncate_at = TRUNCATE_PAGES
        self._last_pages = 0
        self._written_pages = 0

    def checkpoint_if_needed(self) -> bool:
        """Called when something was written; whether that is GROWTH bytes by now, since it last was."""
        try:
            pages, saved = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            if pages < self._last_pages:
                self._truncate_at = TRUNCATE_PAGES  # it has begun anew: who held on to it has ended
            if pages >= self._truncate_at:
                self._truncate_at = pages + (RETRY_PAGES if pages < FOREIGN_READER_PAGES else pages // 2)
                self._truncate()
                self._truncate_at = TRUNCATE_PAGES
            elif pages - saved >= CHECKPOINT_PAGES:
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error:
            # Nothing is lost by it: the write-ahead log is part of the database, and the next batch tries again.
            return False
        return self._has_grown(pages)

    def _truncate(self) -> None:
        self._db.set_busy_timeout(MAX_WAIT_MS)
        try:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._db.set_busy_timeout(self._busy_timeout_ms)

    def _has_grown(self, pages: int) -> bool:
        self._written_pages += pages - self._last_pages if pages >= self._last_pages else pages  # it has begun anew
        self._last_pages = pages
        if self._written_pages < CHECKPOINT_PAGES:
            return False
        self._written_pages = 0
        return True
