"""Verifies the hash chain over the event log by reading the database; walrusd may run.

It reads in pages, each in a snapshot of its own, so that no writer waits and the write-ahead log stays short.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from walrus_protocol.hash_chain import INITIAL_LINK, ChainHead, compute_link, hash_body
from walrusctl.database_reader import describe_incompatibility, has_wal, is_empty, open_read_only

DAEMON_SESSION = 0
"""Pseudo session id of daemon events."""
MAX_DAEMON_EVENTS = 100_000
"""Maximum number of daemon events that walrusd keeps; it deletes the oldest ones."""
_PAGE_SIZE = 500
"""Rows of a page; a few megabytes unless messages are very long."""
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
"""  # noqa: S608 - only our own number is inserted
_SELECT_FIRST_LINK_BETWEEN = 'SELECT min("offset") FROM link WHERE "offset" BETWEEN ? AND ?'
# Each deleted session with the offset of the last sessions_expired event that names it.
_SELECT_EXPIRED_SESSIONS = f"""
SELECT value, max("offset") FROM event, json_each(CAST(body AS TEXT), '$.sessions')
WHERE session = {DAEMON_SESSION} AND substr(body, 1, {len(_EXPIRED_PREFIX)}) = CAST('{_EXPIRED_PREFIX}' AS BLOB)
AND json_valid(CAST(body AS TEXT)) GROUP BY value
"""  # noqa: S608 - only our own constants are inserted
_SELECT_OUT_OF_RANGE_EVENT = (
    'SELECT "offset", session, seq FROM event WHERE "offset" < 1 OR "offset" > ? ORDER BY "offset" LIMIT 1'
)
_MAX_OFFSET = 2**63 - 1
_SELECT_LAST_SEGMENT_END = """
SELECT value FROM counter WHERE name GLOB 'chain *' ORDER BY CAST(substr(name, 7) AS INTEGER) DESC LIMIT 1
"""
_SELECT_SESSION_ENDS = f"""
SELECT id, CAST(ifnull(iif(json_valid(state_json), json_extract(state_json, '$.last_seq'), 0), 0) AS INTEGER), last
FROM (
    SELECT id, CAST(outline AS TEXT) AS state_json,
        ifnull((SELECT max(seq) FROM event WHERE session = id), 0) AS last
    FROM session WHERE id > ? ORDER BY id LIMIT {_PAGE_SIZE}
)
"""  # noqa: S608 - only our own number is inserted
# Sessions with events on both sides of an offset, present or expected, and a missing seq between them.
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
    """A range of offsets, first to last event, that was written while the chain was switched on."""

    first: int
    last: int
    goes_on: bool


class Tampering(NamedTuple):
    """The first place that is not as walrusd wrote it; unknown coordinates are None."""

    what: str
    offset: int | None = None
    session: int | None = None
    seq: int | None = None


class ChainVerdict(NamedTuple):
    segments: tuple[ChainSegment, ...]
    """Empty if the chain was never switched on."""
    head: ChainHead | None = None
    events: int = 0
    """Number of verified events, including the deleted ones."""
    deleted_events: int = 0
    tampering: Tampering | None = None


class UnknownDatabase(Exception):
    """This walrusctl cannot read the database; the arguments are the reason and what to do."""


class _TamperingFound(Exception):
    def __init__(self, tampering: Tampering) -> None:
        self.tampering = tampering


def verify(path: str, since: ChainHead | None = None) -> ChainVerdict:
    """Checks that the log is as walrusd wrote it, and that `since` is a head that its chain had.

    Raises UnknownDatabase, sqlite3.Error and OSError.
    """
    immutable, before = not has_wal(path), os.stat(path)
    verdict = None
    try:
        with closing(open_read_only(path)) as db:
            if not is_empty(db) and (problem := describe_incompatibility(db, path)):
                raise UnknownDatabase(*problem)
            verdict = _Verifier(db, since).run()
    except sqlite3.DatabaseError:
        if not (immutable and _was_modified(path, before)):
            raise
    if verdict and (verdict.tampering is None or not (immutable and _was_modified(path, before))):
        return verdict
    return verify(path, since)


def _was_modified(path: str, stat_before: os.stat_result) -> bool:
    """Whether a walrusd was started meanwhile and wrote to the file opened as immutable."""
    return has_wal(path) or os.stat(path).st_mtime_ns != stat_before.st_mtime_ns


class _Link(NamedTuple):
    """A link and its inputs: the row of its event, or the values it stores for a deleted event."""

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
        """By session: the fault to report if deleting its events was not allowed.

        It names the first deleted event of a session, and the last deleted daemon event.
        """
        self._last_deleted_offsets: dict[int, int] = {}
        """By session: the offset of its last deleted event."""
        self._deleted_count = 0

    def run(self) -> ChainVerdict:
        segments: tuple[ChainSegment, ...] = ()
        tampering = None
        try:
            segments = self._read_segments()
            before = 0
            for segment in segments:
                self._require_no_links(before + 1, segment.first - 1)
                self._verify_segment(segment)
                before = segment.last
            if segments:
                self._verify_end()
            self._verify_since()
        except _TamperingFound as found:
            tampering = found.tampering
        return ChainVerdict(segments, self._head, self._event_count, self._deleted_count, tampering)

    def _read_segments(self) -> tuple[ChainSegment, ...]:
        """Returns the segments as they are now; later events are not verified."""
        if not self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'link'").fetchone():
            return ()
        self._db.execute("BEGIN")
        [[last_offset]] = self._db.execute(_SELECT_LAST_OFFSET)
        rows = self._db.execute(_SELECT_SEGMENTS).fetchall()
        self._db.execute("COMMIT")
        before = 0
        segments = []
        for number, (first, ended) in enumerate(rows, 1):
            last, goes_on = ended or last_offset, not ended
            if not before < first <= last + goes_on or last > last_offset or (goes_on and number < len(rows)):
                raise _TamperingFound(
                    Tampering(f"the recorded range of the chain, from here to offset {last}, is impossible", first)
                )
            segments.append(ChainSegment(first, last, goes_on))
            before = last
        return tuple(segments)

    def _verify_segment(self, segment: ChainSegment) -> None:
        """Computes each link of the segment from its event and the previous link, and compares it."""
        expected, before = segment.first, INITIAL_LINK
        self._advance_head(ChainHead(expected - 1, INITIAL_LINK))
        for row in self._read_links(segment):
            if row.offset != expected:
                break
            before = compute_link(before, row.offset, *self._link_content(row))
            if before != row.link:
                what = "the event or its link was changed"
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
        """Returns the session, seq and digest of the event of a link."""
        self._event_count += 1
        if row.event_session is not None and row.event_seq is not None and row.body is not None:
            if row.digest is not None:
                raise _TamperingFound(
                    Tampering(
                        "the event exists, but its link says that it was deleted", row.offset, *_event_position(row)
                    )
                )
            if row.text is None:
                return row.event_session, row.event_seq, hash_body(row.body)
            if row.text_body is None:
                raise _TamperingFound(
                    Tampering("the long text of the event is missing", row.offset, *_event_position(row))
                )
            return (
                row.event_session,
                row.event_seq,
                hash_body(row.body[: row.text_at] + row.text_body + row.body[row.text_at :]),
            )
        if row.session is None or row.seq is None or row.digest is None:
            raise _TamperingFound(Tampering("the event is missing", row.offset, *self._find_missing_event(row.offset)))
        self._deleted_count += 1
        what = "the event is missing, and the log has no record that it was deleted"
        fault = Tampering(what, row.offset, row.session, row.seq)
        self._last_deleted_offsets[row.session] = row.offset
        if row.session == DAEMON_SESSION:
            self._deletion_faults[DAEMON_SESSION] = fault
        else:
            self._deletion_faults.setdefault(row.session, fault)
        return row.session, row.seq, row.digest

    def _advance_head(self, head: ChainHead) -> None:
        self._head = head
        self._found_since = self._found_since or head == self._since

    def _describe_missing_link(self, offset: int) -> Tampering:
        event = self._db.execute('SELECT session, seq FROM event WHERE "offset" = ?', (offset,)).fetchone()
        if event:
            return Tampering("the event has no link: the event was inserted or its link removed", offset, *event)
        return Tampering("the event and its link are missing", offset, *self._find_missing_event(offset))

    def _find_missing_event(self, offset: int) -> tuple[int | None, int | None]:
        """Returns the session and seq of the missing event; Nones unless exactly one session lacks one."""
        missing = self._db.execute(_SELECT_SESSIONS_MISSING_SEQ, {"offset": offset}).fetchall()
        return missing[0] if len(missing) == 1 else (None, None)

    def _require_no_links(self, first: int, last: int) -> None:
        [[offset]] = self._db.execute(_SELECT_FIRST_LINK_BETWEEN, (first, last))
        if offset is not None:
            raise _TamperingFound(Tampering("there is a link, although the chain was switched off", offset))

    def _verify_end(self) -> None:
        """Checks that the log ends where its counters say, and that its deletions were allowed."""
        self._db.execute("BEGIN")
        [[last_offset]] = self._db.execute(_SELECT_LAST_OFFSET)
        [[switched_off]] = self._db.execute(_SELECT_LAST_SEGMENT_END)
        self._require_no_links(1 + (switched_off or last_offset), _MAX_OFFSET)
        if beyond := self._db.execute(_SELECT_OUT_OF_RANGE_EVENT, (last_offset,)).fetchone():
            what = f"the log has assigned offsets up to {last_offset}, but an event has another one"
            raise _TamperingFound(Tampering(what, *beyond))
        self._verify_deletions()
        self._db.execute("COMMIT")
        before = 0
        while page := self._db.execute(_SELECT_SESSION_ENDS, (before,)).fetchall():
            for session, recorded, last in page:
                if recorded != last:
                    what = f"the log of the session ends with seq {last}, but {recorded} events were recorded"
                    raise _TamperingFound(Tampering(what, None, session, min(last, recorded) + 1))
                before = session

    def _verify_deletions(self) -> None:
        expired: dict[int, int] = dict(self._db.execute(_SELECT_EXPIRED_SESSIONS).fetchall())
        [[last_daemon_seq]] = self._db.execute(
            "SELECT ifnull(max(seq), 0) FROM event WHERE session = ?", (DAEMON_SESSION,)
        )
        for session, fault in self._deletion_faults.items():
            if session == DAEMON_SESSION:
                allowed = (fault.seq or 0) <= last_daemon_seq - MAX_DAEMON_EVENTS
            else:
                is_listed = self._db.execute("SELECT 1 FROM session WHERE id = ?", (session,)).fetchone()
                allowed = expired.get(session, 0) > self._last_deleted_offsets[session] and not is_listed
            if not allowed:
                raise _TamperingFound(fault)

    def _verify_since(self) -> None:
        if self._since and not self._found_since:
            what = "the given head is not in the chain: the log was truncated before it, or recreated"
            row = self._db.execute(
                'SELECT session, seq FROM event WHERE "offset" = ?', (self._since.offset,)
            ).fetchone()
            raise _TamperingFound(Tampering(what, self._since.offset, *(row or (None, None))))


def _event_position(row: _Link) -> tuple[int | None, int | None]:
    return (row.session, row.seq) if row.event_session is None else (row.event_session, row.event_seq)
