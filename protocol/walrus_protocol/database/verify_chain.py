"""Verifies the hash chain over the event log by reading the database; walrusd may run.

It reads in pages, each in a snapshot of its own, so that no writer waits and the write-ahead log stays short.
"""

from collections.abc import Iterator
from typing import NamedTuple

from walrus_protocol.database.hash_chain import INITIAL_LINK, SEGMENTS, ChainHead, compute_link, hash_body
from walrus_protocol.database.reader import DatabaseReader, read_stable
from walrus_protocol.database.schema import (
    DAEMON_SESSION,
    EXPIRED_SESSIONS,
    FULL_BODY,
    LAST_OFFSET,
    MAX_DAEMON_EVENTS,
)

_PAGE_SIZE = 500
"""Rows of a page; a few megabytes unless messages are very long."""
_MAX_OFFSET = 2**63 - 1
_LINKS = f"""
SELECT link."offset", link, ifnull(event.session, link.session), ifnull(event.seq, link.seq),
    event."offset" IS NOT NULL, {FULL_BODY}, digest
FROM link LEFT JOIN event USING ("offset")
WHERE link."offset" BETWEEN ? AND ? ORDER BY link."offset" LIMIT {_PAGE_SIZE}
"""  # noqa: S608 - only our own text and number
_FIRST_LINK_BETWEEN = 'SELECT min("offset") FROM link WHERE "offset" BETWEEN ? AND ?'
_LAST_EXPIRATIONS = f'SELECT session, max("offset") FROM ({EXPIRED_SESSIONS}) GROUP BY session'  # noqa: S608 - as above
_EVENT_POSITION = 'SELECT session, seq FROM event WHERE "offset" = ?'
_OUT_OF_RANGE_EVENT = (
    'SELECT "offset", session, seq FROM event WHERE "offset" < 1 OR "offset" > ? ORDER BY "offset" LIMIT 1'
)
_SESSION_ENDS = f"""
SELECT id, CAST(ifnull(iif(json_valid(state_json), json_extract(state_json, '$.last_seq'), 0), 0) AS INTEGER), last
FROM (
    SELECT id, CAST(outline AS TEXT) AS state_json,
        ifnull((SELECT max(seq) FROM event WHERE session = id), 0) AS last
    FROM session WHERE id > ? ORDER BY id LIMIT {_PAGE_SIZE}
)
"""  # noqa: S608 - as above
# Sessions with events on both sides of an offset, present or expected, and a missing seq between them.
_SESSIONS_MISSING_SEQ = """
SELECT session, seq + 1 FROM event AS last WHERE "offset" < ?1
AND NOT EXISTS (SELECT 1 FROM event WHERE session = last.session AND seq = last.seq + 1)
AND (EXISTS (SELECT 1 FROM event WHERE session = last.session AND "offset" > ?1)
    OR seq < (SELECT json_extract(CAST(outline AS TEXT), '$.last_seq') FROM session WHERE id = last.session))
UNION ALL
SELECT id, 1 FROM session WHERE NOT EXISTS (SELECT 1 FROM event WHERE session = id AND "offset" <= ?1)
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

    Raises UnknownDatabase, DatabaseUnreadable and OSError.
    """

    def read(db: DatabaseReader) -> ChainVerdict:
        if not db.is_empty and (problem := db.incompatibility()):
            raise UnknownDatabase(*problem)
        return _Verifier(db, since).run()

    return read_stable(path, read, is_fault=lambda verdict: verdict.tampering is not None)


class _Link(NamedTuple):
    """A link and its inputs: the event, or the values that the link stores for a deleted event."""

    offset: int
    link: bytes
    session: int | None
    seq: int | None
    has_event: int
    body: bytes | None
    digest: bytes | None

    def fault(self, what: str) -> _TamperingFound:
        return _TamperingFound(Tampering(what, self.offset, self.session, self.seq))


class _Verifier:
    def __init__(self, db: DatabaseReader, since: ChainHead | None) -> None:
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
        if not self._db.row("SELECT 1 FROM sqlite_schema WHERE name = 'link'"):
            return ()
        with self._db.snapshot():
            last_offset = self._db.number(LAST_OFFSET)
            rows = [*self._db.rows(f"{SEGMENTS} ORDER BY first")]
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
                raise row.fault("the event or its link was changed")
            self._advance_head(ChainHead(row.offset, before))
            expected += 1
        if expected <= segment.last:
            raise _TamperingFound(self._describe_missing_link(expected))

    def _read_links(self, segment: ChainSegment) -> Iterator[_Link]:
        offset = segment.first - 1
        while offset < segment.last:
            before = offset
            for row in self._db.rows(_LINKS, offset + 1, segment.last):
                found = _Link(*row)
                yield found
                offset = found.offset
            if offset == before:
                return

    def _link_content(self, row: _Link) -> tuple[int, int, bytes]:
        """Returns the session, seq and digest of the event of a link."""
        self._event_count += 1
        if not row.has_event:
            return self._deleted_content(row)
        if row.digest is not None:
            raise row.fault("the event exists, but its link says that it was deleted")
        if row.body is None:
            raise row.fault("the long text of the event is missing")
        assert row.session is not None
        assert row.seq is not None
        return row.session, row.seq, hash_body(row.body)

    def _deleted_content(self, row: _Link) -> tuple[int, int, bytes]:
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
        if event := self._db.row(_EVENT_POSITION, offset):
            return Tampering("the event has no link: the event was inserted or its link removed", offset, *event)
        return Tampering("the event and its link are missing", offset, *self._find_missing_event(offset))

    def _find_missing_event(self, offset: int) -> tuple[int | None, int | None]:
        """Returns the session and seq of the missing event; Nones unless exactly one session lacks one."""
        missing = [(session, seq) for session, seq in self._db.rows(_SESSIONS_MISSING_SEQ, offset)]
        return missing[0] if len(missing) == 1 else (None, None)

    def _require_no_links(self, first: int, last: int) -> None:
        [[offset]] = self._db.rows(_FIRST_LINK_BETWEEN, first, last)
        if offset is not None:
            raise _TamperingFound(Tampering("there is a link, although the chain was switched off", offset))

    def _verify_end(self) -> None:
        """Checks that the log ends where its counters say, and that its deletions were allowed."""
        with self._db.snapshot():
            last_offset = self._db.number(LAST_OFFSET)
            switched_off = self._db.number(f"SELECT last FROM ({SEGMENTS}) ORDER BY first DESC LIMIT 1")  # noqa: S608 - as above
            self._require_no_links(1 + (switched_off or last_offset), _MAX_OFFSET)
            if beyond := self._db.row(_OUT_OF_RANGE_EVENT, last_offset):
                what = f"the log has assigned offsets up to {last_offset}, but an event has another one"
                raise _TamperingFound(Tampering(what, *beyond))
            self._verify_deletions()
        before = 0
        while page := [*self._db.rows(_SESSION_ENDS, before)]:
            for session, recorded, last in page:
                if recorded != last:
                    what = f"the log of the session ends with seq {last}, but {recorded} events were recorded"
                    raise _TamperingFound(Tampering(what, None, session, min(last, recorded) + 1))
                before = session

    def _verify_deletions(self) -> None:
        expired: dict[int, int] = dict(self._db.rows(_LAST_EXPIRATIONS))
        last_daemon_seq = self._db.number("SELECT ifnull(max(seq), 0) FROM event WHERE session = ?", DAEMON_SESSION)
        for session, fault in self._deletion_faults.items():
            if session == DAEMON_SESSION:
                allowed = (fault.seq or 0) <= last_daemon_seq - MAX_DAEMON_EVENTS
            else:
                is_listed = self._db.row("SELECT 1 FROM session WHERE id = ?", session)
                allowed = expired.get(session, 0) > self._last_deleted_offsets[session] and not is_listed
            if not allowed:
                raise _TamperingFound(fault)

    def _verify_since(self) -> None:
        if self._since and not self._found_since:
            what = "the given head is not in the chain: the log was truncated before it, or recreated"
            row = self._db.row(_EVENT_POSITION, self._since.offset)
            raise _TamperingFound(Tampering(what, self._since.offset, *(row or (None, None))))
