"""The chain over the log, proved from the database itself, while walrusd runs or not.

It is read in pages, each a snapshot of its own, so that nothing waits for it and the write-ahead log stays short.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from walrus_protocol.hash_chain import INITIAL_LINK, ChainHead, compute_link, hash_body
from walrusctl.database_reader import describe_incompatibility, has_wal, is_empty, open_read_only

DAEMON_SESSION = 0
"""In the place of a session: the daemon's own facts."""
MAX_DAEMON_EVENTS = 100_000
"""Facts of the daemon that walrusd keeps, the latest."""
_PAGE_SIZE = 500
"""Rows of a page: some megabytes at most, but where messages are very long."""
_EXPIRED_PREFIX = '{"type":"sessions_expired",'
_SELECT_SEGMENTS = """
SELECT CAST(substr(name, 7) AS INTEGER), value FROM counter WHERE name GLOB 'chain *' ORDER BY 1
"""
_SELECT_LAST_OFFSET = "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'"
_SELECT_LINKS = f"""
SELECT link."offset", link, link.session, link.seq, link.digest,
    event.session, event.seq, event.body, event.at, event.text,
    (SELECT text.body FROM text WHERE text.digest = event.text)
FROM link LEFT JOIN event USING ("offset")
WHERE link."offset" BETWEEN ? AND ? ORDER BY link."offset" LIMIT {_PAGE_SIZE}
"""  # noqa: S608 - a number of ours
_SELECT_FIRST_LINK_BETWEEN = 'SELECT min("offset") FROM link WHERE "offset" BETWEEN ? AND ?'
# Each with the offset of the last fact that says so.
_SELECT_EXPIRED_SESSIONS = f"""
SELECT value, max("offset") FROM event, json_each(CAST(body AS TEXT), '$.sessions')
WHERE session = {DAEMON_SESSION} AND substr(body, 1, {len(_EXPIRED_PREFIX)}) = CAST('{_EXPIRED_PREFIX}' AS BLOB)
AND json_valid(CAST(body AS TEXT)) GROUP BY value
"""  # noqa: S608 - words of ours
_SELECT_OUT_OF_RANGE_EVENT = (
    'SELECT "offset", session, seq FROM event WHERE "offset" < 1 OR "offset" > ? ORDER BY "offset" LIMIT 1'
)
_MAX_OFFSET = 2**63 - 1
_SELECT_LAST_SEGMENT_END = """
SELECT value FROM counter WHERE name GLOB 'chain *' ORDER BY CAST(substr(name, 7) AS INTEGER) DESC LIMIT 1
"""
_SELECT_SESSION_ENDS = f"""
SELECT id, CAST(ifnull(iif(json_valid(told), json_extract(told, '$.last_seq'), 0), 0) AS INTEGER), last
FROM (
    SELECT id, CAST(outline AS TEXT) AS told, ifnull((SELECT max(seq) FROM event WHERE session = id), 0) AS last
    FROM session WHERE id > ? ORDER BY id LIMIT {_PAGE_SIZE}
)
"""  # noqa: S608 - a number of ours
# Whose log goes from before an offset to behind it, or should, and lacks a seq between.
_SELECT_SESSIONS_MISSING_SEQ = """
SELECT session, seq + 1 FROM event AS last WHERE "offset" < :offset
AND NOT EXISTS (SELECT 1 FROM event WHERE session = last.session AND seq = last.seq + 1)
AND (EXISTS (SELECT 1 FROM event WHERE session = last.session AND "offset" > :offset)
    OR seq < (SELECT json_extract(CAST(outline AS TEXT), '$.last_seq') FROM session WHERE id = last.session))
UNION ALL
SELECT id, 1 FROM session WHERE NOT EXISTS (SELECT 1 FROM event WHERE session = id AND "offset" <= :offset)
AND NOT EXISTS (SELECT 1 FROM event WHERE session = id AND seq = 1)
LIMIT 2
"""


class ChainSegment(NamedTuple):
    """What was written while the chain was switched on: the offsets of its first and its last event."""

    first: int
    last: int
    goes_on: bool


class Tampering(NamedTuple):
    """The first place that is not as walrusd wrote it; what cannot be told of it is None."""

    what: str
    offset: int | None = None
    session: int | None = None
    seq: int | None = None


class ChainVerdict(NamedTuple):
    segments: tuple[ChainSegment, ...]
    """None of them where the chain was never switched on."""
    head: ChainHead | None = None
    events: int = 0
    """Those that were proved, with the thrown away ones."""
    deleted_events: int = 0
    tampering: Tampering | None = None


class UnknownDatabase(Exception):
    """The database is not one that this walrusctl knows: why, and what to do."""


class _TamperingFound(Exception):
    def __init__(self, tampering: Tampering) -> None:
        self.tampering = tampering


def verify(path: str, since: ChainHead | None = None) -> ChainVerdict:
    """Whether the log is as walrusd wrote it, and `since` a head that it had.

    Raises Foreign, sqlite3.Error and OSError.
    """
    alone, before = not has_wal(path), os.stat(path)
    verdict = None
    try:
        with closing(open_read_only(path)) as db:
            if not is_empty(db) and (refused := describe_incompatibility(db, path)):
                raise UnknownDatabase(*refused)
            verdict = _Verifier(db, since).run()
    except sqlite3.DatabaseError:
        if not (alone and _was_modified(path, before)):
            raise
    if verdict and (verdict.tampering is None or not (alone and _was_modified(path, before))):
        return verdict
    return verify(path, since)


def _was_modified(path: str, stat_before: os.stat_result) -> bool:
    """Whether a walrusd has been started since, and has changed what was read as if nobody wrote to it."""
    return has_wal(path) or os.stat(path).st_mtime_ns != stat_before.st_mtime_ns


class _Link(NamedTuple):
    """A link with what it was made from: the row of its event, or what it keeps of one that was thrown away."""

    offset: int
    link: bytes
    session: int | None
    seq: int | None
    digest: bytes | None
    event_session: int | None
    event_seq: int | None
    body: bytes | None
    text_at: int | None
    text: bytes | None
    text_body: bytes | None


class _Verifier:
    def __init__(self, db: sqlite3.Connection, since: ChainHead | None) -> None:
        self._db = db
        self._since = since
        self._found_since = False
        self._head: ChainHead | None = None
        self._event_count = 0
        self._deletion_faults: dict[int, Tampering] = {}
        """Of each session with events that were thrown away the first, of the daemon's own the last: as what they are
        where that was not allowed."""
        self._last_deleted_offsets: dict[int, int] = {}
        """The offset of the last of them."""
        self._deleted_count = 0

    def run(self) -> ChainVerdict:
        stretches: tuple[ChainSegment, ...] = ()
        tampered = None
        try:
            stretches = self._read_segments()
            before = 0
            for stretch in stretches:
                self._require_no_links(before + 1, stretch.first - 1)
                self._verify_segment(stretch)
                before = stretch.last
            if stretches:
                self._verify_end()
            self._verify_since()
        except _TamperingFound as broken:
            tampered = broken.tampering
        return ChainVerdict(stretches, self._head, self._event_count, self._deleted_count, tampered)

    def _read_segments(self) -> tuple[ChainSegment, ...]:
        """As they are now: what is written from now on is not looked at."""
        if not self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'link'").fetchone():
            return ()
        self._db.execute("BEGIN")
        [[given]] = self._db.execute(_SELECT_LAST_OFFSET)
        rows = self._db.execute(_SELECT_SEGMENTS).fetchall()
        self._db.execute("COMMIT")
        before = 0
        stretches = []
        for number, (first, ended) in enumerate(rows, 1):
            last, goes_on = ended or given, not ended
            if not before < first <= last + goes_on or last > given or (goes_on and number < len(rows)):
                raise _TamperingFound(
                    Tampering(f"the chain is said to go from here to offset {last}, and cannot", first)
                )
            stretches.append(ChainSegment(first, last, goes_on))
            before = last
        return tuple(stretches)

    def _verify_segment(self, segment: ChainSegment) -> None:
        """Each link from its event and the link before it."""
        expected, before = segment.first, INITIAL_LINK
        self._advance_head(ChainHead(expected - 1, INITIAL_LINK))
        for row in self._read_links(segment):
            if row.offset != expected:
                break
            before = compute_link(before, row.offset, *self._link_content(row))
            if before != row.link:
                what = "the event is not the one that was chained, or a link was changed"
                raise _TamperingFound(Tampering(what, row.offset, *_event_position(row)))
            self._advance_head(ChainHead(row.offset, before))
            expected += 1
        if expected <= segment.last:
            raise _TamperingFound(self._describe_missing_link(expected))

    def _read_links(self, segment: ChainSegment) -> Iterator[_Link]:
        offset = segment.first - 1
        while offset < segment.last:
            before = offset
            for row in self._db.execute(_SELECT_LINKS, (offset + 1, segment.last)):
                found = _Link(*row)
                yield found
                offset = found.offset
            if offset == before:
                return

    def _link_content(self, row: _Link) -> tuple[int, int, bytes]:
        """Session, seq and digest of the event."""
        self._event_count += 1
        if row.event_session is not None and row.event_seq is not None and row.body is not None:
            if row.digest is not None:
                raise _TamperingFound(
                    Tampering("the event is there, and was thrown away once", row.offset, *_event_position(row))
                )
            if row.text is None:
                return row.event_session, row.event_seq, hash_body(row.body)
            if row.text_body is None:
                raise _TamperingFound(
                    Tampering("a part of the event, its long text, is gone", row.offset, *_event_position(row))
                )
            return (
                row.event_session,
                row.event_seq,
                hash_body(row.body[: row.text_at] + row.text_body + row.body[row.text_at :]),
            )
        if row.session is None or row.seq is None or row.digest is None:
            raise _TamperingFound(Tampering("the event is gone", row.offset, *self._find_missing_event(row.offset)))
        self._deleted_count += 1
        what = "the event is gone, and nothing in the log says that it was thrown away"
        gone = Tampering(what, row.offset, row.session, row.seq)
        self._last_deleted_offsets[row.session] = row.offset
        if row.session == DAEMON_SESSION:
            self._deletion_faults[DAEMON_SESSION] = gone
        else:
            self._deletion_faults.setdefault(row.session, gone)
        return row.session, row.seq, row.digest

    def _advance_head(self, head: ChainHead) -> None:
        self._head = head
        self._found_since = self._found_since or head == self._since

    def _describe_missing_link(self, offset: int) -> Tampering:
        there = self._db.execute('SELECT session, seq FROM event WHERE "offset" = ?', (offset,)).fetchone()
        if there:
            return Tampering("the event has no link: it was put in, or the link taken out", offset, *there)
        return Tampering("the event is gone, and its link", offset, *self._find_missing_event(offset))

    def _find_missing_event(self, offset: int) -> tuple[int | None, int | None]:
        """Which event was at an offset, where one log alone lacks one there."""
        lacks = self._db.execute(_SELECT_SESSIONS_MISSING_SEQ, {"offset": offset}).fetchall()
        return lacks[0] if len(lacks) == 1 else (None, None)

    def _require_no_links(self, first: int, last: int) -> None:
        [[offset]] = self._db.execute(_SELECT_FIRST_LINK_BETWEEN, (first, last))
        if offset is not None:
            raise _TamperingFound(Tampering("there is a link, and the chain was switched off", offset))

    def _verify_end(self) -> None:
        """That the log ends where it says, and that what is gone from it was allowed to go."""
        self._db.execute("BEGIN")
        [[given]] = self._db.execute(_SELECT_LAST_OFFSET)
        [[switched_off]] = self._db.execute(_SELECT_LAST_SEGMENT_END)
        self._require_no_links(1 + (switched_off or given), _MAX_OFFSET)
        if beyond := self._db.execute(_SELECT_OUT_OF_RANGE_EVENT, (given,)).fetchone():
            what = f"the log has given out {given} offsets, and there is an event with another"
            raise _TamperingFound(Tampering(what, *beyond))
        self._verify_deletions()
        self._db.execute("COMMIT")
        before = 0
        while page := self._db.execute(_SELECT_SESSION_ENDS, (before,)).fetchall():
            for session, said, last in page:
                if said != last:
                    what = f"the log of the session ends with seq {last}, and has had {said} events"
                    raise _TamperingFound(Tampering(what, None, session, min(last, said) + 1))
                before = session

    def _verify_deletions(self) -> None:
        expired: dict[int, int] = dict(self._db.execute(_SELECT_EXPIRED_SESSIONS).fetchall())
        [[last_fact]] = self._db.execute("SELECT ifnull(max(seq), 0) FROM event WHERE session = ?", (DAEMON_SESSION,))
        for session, gone in self._deletion_faults.items():
            if session == DAEMON_SESSION:
                allowed = (gone.seq or 0) <= last_fact - MAX_DAEMON_EVENTS
            else:
                is_listed = self._db.execute("SELECT 1 FROM session WHERE id = ?", (session,)).fetchone()
                allowed = expired.get(session, 0) > self._last_deleted_offsets[session] and not is_listed
            if not allowed:
                raise _TamperingFound(gone)

    def _verify_since(self) -> None:
        if self._since and not self._found_since:
            what = "the head that was noted is not in the chain: the log was cut off before it, or made anew"
            row = self._db.execute(
                'SELECT session, seq FROM event WHERE "offset" = ?', (self._since.offset,)
            ).fetchone()
            raise _TamperingFound(Tampering(what, self._since.offset, *(row or (None, None))))


def _event_position(row: _Link) -> tuple[int | None, int | None]:
    return (row.session, row.seq) if row.event_session is None else (row.event_session, row.event_seq)
