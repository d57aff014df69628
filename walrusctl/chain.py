"""The chain over the log, proved from the database itself, while walrusd runs or not.

It is read in pages, each a snapshot of its own, so that nothing waits for it and the write-ahead log stays short.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from walrus_protocol.chain import START, Head, digest, link
from walrusctl.database import foreign, has_log, is_empty, opened

DAEMON = 0
"""In the place of a session: the daemon's own facts."""
DAEMON_FACTS = 100_000
"""Facts of the daemon that walrusd keeps, the latest."""
_PAGE = 500
"""Rows of a page: some megabytes at most, but where messages are very long."""
_SAYS_SO = '{"type":"sessions_expired",'
_STRETCHES = """
SELECT CAST(substr(name, 7) AS INTEGER), value FROM counter WHERE name GLOB 'chain *' ORDER BY 1
"""
_GIVEN = "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'"
_LINKS = f"""
SELECT link."offset", link, link.session, link.seq, link.digest,
    event.session, event.seq, event.body, event.at, event.text,
    (SELECT text.body FROM text WHERE text.digest = event.text)
FROM link LEFT JOIN event USING ("offset")
WHERE link."offset" BETWEEN ? AND ? ORDER BY link."offset" LIMIT {_PAGE}
"""  # noqa: S608 - a number of ours
_ELSEWHERE = 'SELECT min("offset") FROM link WHERE "offset" BETWEEN ? AND ?'
# Each with the offset of the last fact that says so.
_EXPIRED = f"""
SELECT value, max("offset") FROM event, json_each(CAST(body AS TEXT), '$.sessions')
WHERE session = {DAEMON} AND substr(body, 1, {len(_SAYS_SO)}) = CAST('{_SAYS_SO}' AS BLOB)
AND json_valid(CAST(body AS TEXT)) GROUP BY value
"""  # noqa: S608 - words of ours
_BEYOND = 'SELECT "offset", session, seq FROM event WHERE "offset" < 1 OR "offset" > ? ORDER BY "offset" LIMIT 1'
_LAST = 2**63 - 1
_SWITCHED_OFF = """
SELECT value FROM counter WHERE name GLOB 'chain *' ORDER BY CAST(substr(name, 7) AS INTEGER) DESC LIMIT 1
"""
_ENDS = f"""
SELECT id, CAST(ifnull(iif(json_valid(told), json_extract(told, '$.last_seq'), 0), 0) AS INTEGER), last
FROM (
    SELECT id, CAST(outline AS TEXT) AS told, ifnull((SELECT max(seq) FROM event WHERE session = id), 0) AS last
    FROM session WHERE id > ? ORDER BY id LIMIT {_PAGE}
)
"""  # noqa: S608 - a number of ours
# Whose log goes from before an offset to behind it, or should, and lacks a seq between.
_LACKS = """
SELECT session, seq + 1 FROM event AS last WHERE "offset" < :offset
AND NOT EXISTS (SELECT 1 FROM event WHERE session = last.session AND seq = last.seq + 1)
AND (EXISTS (SELECT 1 FROM event WHERE session = last.session AND "offset" > :offset)
    OR seq < (SELECT json_extract(CAST(outline AS TEXT), '$.last_seq') FROM session WHERE id = last.session))
UNION ALL
SELECT id, 1 FROM session WHERE NOT EXISTS (SELECT 1 FROM event WHERE session = id AND "offset" <= :offset)
AND NOT EXISTS (SELECT 1 FROM event WHERE session = id AND seq = 1)
LIMIT 2
"""


class Stretch(NamedTuple):
    """What was written while the chain was switched on: the offsets of its first and its last event."""

    first: int
    last: int
    goes_on: bool


class Tampered(NamedTuple):
    """The first place that is not as walrusd wrote it; what cannot be told of it is None."""

    what: str
    offset: int | None = None
    session: int | None = None
    seq: int | None = None


class Verdict(NamedTuple):
    stretches: tuple[Stretch, ...]
    """None of them where the chain was never switched on."""
    head: Head | None = None
    events: int = 0
    """Those that were proved, with the thrown away ones."""
    thrown_away: int = 0
    tampered: Tampered | None = None


class Foreign(Exception):
    """The database is not one that this walrusctl knows: why, and what to do."""


class _Broken(Exception):
    def __init__(self, tampered: Tampered) -> None:
        self.tampered = tampered


def verify(path: str, since: Head | None = None) -> Verdict:
    """Whether the log is as walrusd wrote it, and `since` a head that it had.

    Raises Foreign, sqlite3.Error and OSError.
    """
    alone, before = not has_log(path), os.stat(path)
    verdict = None
    try:
        with closing(opened(path)) as db:
            if not is_empty(db) and (refused := foreign(db, path)):
                raise Foreign(*refused)
            verdict = _Proof(db, since).verdict()
    except sqlite3.DatabaseError:
        if not (alone and _was_written(path, before)):
            raise
    if verdict and (verdict.tampered is None or not (alone and _was_written(path, before))):
        return verdict
    return verify(path, since)


def _was_written(path: str, before: os.stat_result) -> bool:
    """Whether a walrusd has been started since, and has changed what was read as if nobody wrote to it."""
    return has_log(path) or os.stat(path).st_mtime_ns != before.st_mtime_ns


class _Link(NamedTuple):
    """A link with what it was made from: the row of its event, or what it keeps of one that was thrown away."""

    offset: int
    link: bytes
    session: int | None
    seq: int | None
    digest: bytes | None
    of_session: int | None
    of_seq: int | None
    body: bytes | None
    at: int | None
    text: bytes | None
    text_body: bytes | None


class _Proof:
    def __init__(self, db: sqlite3.Connection, since: Head | None) -> None:
        self._db = db
        self._since = since
        self._met_since = False
        self._head: Head | None = None
        self._events = 0
        self._gone: dict[int, Tampered] = {}
        """Of each session with events that were thrown away the first, of the daemon's own the last: as what they are
        where that was not allowed."""
        self._last_gone: dict[int, int] = {}
        """The offset of the last of them."""
        self._thrown_away = 0

    def verdict(self) -> Verdict:
        stretches: tuple[Stretch, ...] = ()
        tampered = None
        try:
            stretches = self._stretches()
            before = 0
            for stretch in stretches:
                self._no_links(before + 1, stretch.first - 1)
                self._walk(stretch)
                before = stretch.last
            if stretches:
                self._look_at_end()
            self._find_since()
        except _Broken as broken:
            tampered = broken.tampered
        return Verdict(stretches, self._head, self._events, self._thrown_away, tampered)

    def _stretches(self) -> tuple[Stretch, ...]:
        """As they are now: what is written from now on is not looked at."""
        if not self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'link'").fetchone():
            return ()
        self._db.execute("BEGIN")
        [[given]] = self._db.execute(_GIVEN)
        rows = self._db.execute(_STRETCHES).fetchall()
        self._db.execute("COMMIT")
        before = 0
        stretches = []
        for number, (first, ended) in enumerate(rows, 1):
            last, goes_on = ended or given, not ended
            if not before < first <= last + goes_on or last > given or (goes_on and number < len(rows)):
                raise _Broken(Tampered(f"the chain is said to go from here to offset {last}, and cannot", first))
            stretches.append(Stretch(first, last, goes_on))
            before = last
        return tuple(stretches)

    def _walk(self, stretch: Stretch) -> None:
        """Each link from its event and the link before it."""
        expected, before = stretch.first, START
        self._meet(Head(expected - 1, START))
        for row in self._links(stretch):
            if row.offset != expected:
                break
            before = link(before, row.offset, *self._content(row))
            if before != row.link:
                what = "the event is not the one that was chained, or a link was changed"
                raise _Broken(Tampered(what, row.offset, *_place(row)))
            self._meet(Head(row.offset, before))
            expected += 1
        if expected <= stretch.last:
            raise _Broken(self._without_link(expected))

    def _links(self, stretch: Stretch) -> Iterator[_Link]:
        offset = stretch.first - 1
        while offset < stretch.last:
            before = offset
            for row in self._db.execute(_LINKS, (offset + 1, stretch.last)):
                found = _Link(*row)
                yield found
                offset = found.offset
            if offset == before:
                return

    def _content(self, row: _Link) -> tuple[int, int, bytes]:
        """Session, seq and digest of the event."""
        self._events += 1
        if row.of_session is not None and row.of_seq is not None and row.body is not None:
            if row.digest is not None:
                raise _Broken(Tampered("the event is there, and was thrown away once", row.offset, *_place(row)))
            if row.text is None:
                return row.of_session, row.of_seq, digest(row.body)
            if row.text_body is None:
                raise _Broken(Tampered("a part of the event, its long text, is gone", row.offset, *_place(row)))
            return row.of_session, row.of_seq, digest(row.body[: row.at] + row.text_body + row.body[row.at :])
        if row.session is None or row.seq is None or row.digest is None:
            raise _Broken(Tampered("the event is gone", row.offset, *self._missed_at(row.offset)))
        self._thrown_away += 1
        what = "the event is gone, and nothing in the log says that it was thrown away"
        gone = Tampered(what, row.offset, row.session, row.seq)
        self._last_gone[row.session] = row.offset
        if row.session == DAEMON:
            self._gone[DAEMON] = gone
        else:
            self._gone.setdefault(row.session, gone)
        return row.session, row.seq, row.digest

    def _meet(self, head: Head) -> None:
        self._head = head
        self._met_since = self._met_since or head == self._since

    def _without_link(self, offset: int) -> Tampered:
        there = self._db.execute('SELECT session, seq FROM event WHERE "offset" = ?', (offset,)).fetchone()
        if there:
            return Tampered("the event has no link: it was put in, or the link taken out", offset, *there)
        return Tampered("the event is gone, and its link", offset, *self._missed_at(offset))

    def _missed_at(self, offset: int) -> tuple[int | None, int | None]:
        """Which event was at an offset, where one log alone lacks one there."""
        lacks = self._db.execute(_LACKS, {"offset": offset}).fetchall()
        return lacks[0] if len(lacks) == 1 else (None, None)

    def _no_links(self, first: int, last: int) -> None:
        [[offset]] = self._db.execute(_ELSEWHERE, (first, last))
        if offset is not None:
            raise _Broken(Tampered("there is a link, and the chain was switched off", offset))

    def _look_at_end(self) -> None:
        """That the log ends where it says, and that what is gone from it was allowed to go."""
        self._db.execute("BEGIN")
        [[given]] = self._db.execute(_GIVEN)
        [[switched_off]] = self._db.execute(_SWITCHED_OFF)
        self._no_links(1 + (switched_off or given), _LAST)
        if beyond := self._db.execute(_BEYOND, (given,)).fetchone():
            what = f"the log has given out {given} offsets, and there is an event with another"
            raise _Broken(Tampered(what, *beyond))
        self._allowed_to_go()
        self._db.execute("COMMIT")
        before = 0
        while page := self._db.execute(_ENDS, (before,)).fetchall():
            for session, said, last in page:
                if said != last:
                    what = f"the log of the session ends with seq {last}, and has had {said} events"
                    raise _Broken(Tampered(what, None, session, min(last, said) + 1))
                before = session

    def _allowed_to_go(self) -> None:
        expired: dict[int, int] = dict(self._db.execute(_EXPIRED).fetchall())
        [[last_fact]] = self._db.execute("SELECT ifnull(max(seq), 0) FROM event WHERE session = ?", (DAEMON,))
        for session, gone in self._gone.items():
            if session == DAEMON:
                allowed = (gone.seq or 0) <= last_fact - DAEMON_FACTS
            else:
                is_listed = self._db.execute("SELECT 1 FROM session WHERE id = ?", (session,)).fetchone()
                allowed = expired.get(session, 0) > self._last_gone[session] and not is_listed
            if not allowed:
                raise _Broken(gone)

    def _find_since(self) -> None:
        if self._since and not self._met_since:
            what = "the head that was noted is not in the chain: the log was cut off before it, or made anew"
            row = self._db.execute(
                'SELECT session, seq FROM event WHERE "offset" = ?', (self._since.offset,)
            ).fetchone()
            raise _Broken(Tampered(what, self._since.offset, *(row or (None, None))))


def _place(row: _Link) -> tuple[int | None, int | None]:
    return (row.session, row.seq) if row.of_session is None else (row.of_session, row.of_seq)
