"""The tables of walrus.db after the newest migration, and the constants in its rows.

A test compares them with a database that walrusd has created.
"""

APPLICATION_ID = 0x57414C52
"""SQLite application id of walrusd's databases: the letters WALR."""
SCHEMA_VERSION = 4
"""SQLite user version of a database after the newest migration."""
DAEMON_SESSION = 0
"""Pseudo session id of daemon events; their seq numbers are internal."""
MAX_DAEMON_EVENTS = 100_000
"""Maximum daemon events kept, the newest: some 30 MB, or a year and a half of ticks every ten minutes."""
SESSIONS_EXPIRED_PREFIX = '{"type":"sessions_expired",'
"""First characters of a daemon event that is kept for ever: it records which sessions were deleted."""

TABLES: dict[str, tuple[str, ...]] = {
    "inbox": ("session", "place", "kind", "body"),
    "draft": ("session", "body"),
    "created_with": ("key", "digest", "session"),
    "turn": ("session", "turn", "first_seq", "last_seq"),
    "sent": ("session", "key", "digest", "turn"),
    "output_of": ("session", "ref"),
    "event": ("offset", "session", "seq", "body", "text", "at"),
    "link": ("offset", "link", "session", "seq", "digest"),
    "remains": ("session",),
    "session": ("id", "agent", "state", "in_turn", "outline", "closed_at"),
    "fork": ("child", "parent", "seq"),
    "text": ("digest", "body"),
    "output": ("ref", "body"),
    "said": ("text",),
    "schedule": ("name", "body"),
    "tick": ("tick", "schedule", "running", "news", "body"),
    "ledger": ("schedule", "ticks"),
    "counter": ("name", "value"),
}
"""The columns of each table; `said` is the search index, whose rowids are offsets of events."""

FULL_BODY = """CASE WHEN event.text IS NULL THEN event.body ELSE CAST(
    substr(event.body, 1, event.at)
    || (SELECT text.body FROM text WHERE text.digest = event.text)
    || substr(event.body, event.at + 1)
AS BLOB) END"""
"""SQL expression of the whole body of a row of `event`: its longest text may be stored in `text`, once for all events.

`event.text` is the digest of that text, `event.at` its position in the body. Null if the text is missing.
"""
FULL_BODY_SIZE = """length(event.body)
    + iif(event.text IS NULL, 0, (SELECT length(text.body) FROM text WHERE text.digest = event.text))"""
"""SQL expression of the bytes of the whole body."""
LAST_OFFSET = "SELECT CAST(ifnull(max(seq), 0) AS INTEGER) FROM sqlite_sequence WHERE name = 'event'"
"""SQL query of the last offset that was assigned; it is not assigned again even if its event was deleted.

SQLite does not check the type of this column; a text that somebody wrote there counts as 0.
"""
EXPIRED_SESSIONS = f"""
SELECT value AS session, "offset" FROM event, json_each(CAST(event.body AS TEXT), '$.sessions')
WHERE event.session = {DAEMON_SESSION} AND json_valid(CAST(event.body AS TEXT))
AND substr(event.body, 1, {len(SESSIONS_EXPIRED_PREFIX)}) = CAST('{SESSIONS_EXPIRED_PREFIX}' AS BLOB)
"""  # noqa: S608 - only our own constants are inserted
"""SQL query of the deleted sessions, each with the offset of a daemon event that records it."""
