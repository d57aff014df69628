"""What is asked of the tables of a log, in SQL: each question gives a sentence a row, and none where all is well."""

_WITH_OUTLINE = """
WITH told AS (
    SELECT id, state, in_turn, ifnull(json_extract(row, '$.last_seq'), 0) AS last_seq,
        ifnull(json_extract(row, '$.turns'), 0) AS turns, ifnull(json_extract(row, '$.state'), '') AS told_state,
        json_type(row, '$.turn') IS NOT NULL AS told_turn
    FROM (SELECT id, state, in_turn, CAST(outline AS TEXT) AS row FROM session)
)
"""
_MISSING_EVENTS = """
SELECT 'session ' || session || ' has ' || count(*) || ' events, from seq ' || min(seq) || ' to ' || max(seq)
    || ': some are gone'
FROM event WHERE session IN (SELECT id FROM session) GROUP BY session HAVING count(*) <> max(seq) OR min(seq) <> 1
"""
_WRONG_LAST_SEQ = f"""{_WITH_OUTLINE}
SELECT 'session ' || id || ' ends with seq ' || last || ', and its outline says ' || last_seq
FROM (SELECT *, ifnull((SELECT max(seq) FROM event WHERE session = id), 0) AS last FROM told) WHERE last <> last_seq
"""  # noqa: S608 - words of ours
_WRONG_STATE = f"""{_WITH_OUTLINE}
SELECT 'session ' || id || ' is listed as ' || state || iif(in_turn, ', in a turn', '') || ', and its outline says '
    || told_state || iif(told_turn, ', in a turn', '')
FROM told WHERE state <> told_state OR in_turn <> told_turn
"""  # noqa: S608 - as above
_WRONG_TURN_COUNT = f"""{_WITH_OUTLINE}
SELECT 'session ' || id || ' has had ' || turns || ' turns, and ' || listed || ' are listed'
FROM (SELECT *, (SELECT count(*) FROM turn WHERE session = id) AS listed FROM told) WHERE turns <> listed
"""  # noqa: S608 - as above
_MISSING_INHERITED_EVENTS = """
SELECT 'session ' || child || ' goes on from session ' || parent || ' at seq ' || seq || ', and ' || (seq - there)
    || ' events before that are gone'
FROM (
    SELECT *, (SELECT count(*) FROM event WHERE session = parent AND event.seq <= fork.seq) AS there
    FROM fork WHERE child IN (SELECT id FROM session)
) WHERE there < seq
"""
_WRONG_LAST_OFFSET = """
SELECT 'the log has given out ' || given || ' offsets, and its last event has ' || last
FROM (
    SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0) AS given,
        (SELECT ifnull(max("offset"), 0) FROM event) AS last
) WHERE last > given
"""
_WRONG_OPEN_COUNT = """
SELECT open || ' sessions are open, and ' || counted || ' are counted'
FROM (
    SELECT (SELECT count(*) FROM session WHERE state <> 'closed') AS open,
        (SELECT value FROM counter WHERE name = 'session_open') AS counted
) WHERE open IS NOT counted
"""
_MISSING_TEXTS = """
SELECT 'session ' || session || ' has ' || count(*) || ' events whose long text is gone, the first at seq ' || min(seq)
FROM event WHERE text IS NOT NULL AND NOT EXISTS (SELECT 1 FROM text WHERE digest = event.text) GROUP BY session
"""
_MISSING_OUTPUTS = """
SELECT 'session ' || session || ' has the output ' || ref || ', which is gone'
FROM output_of WHERE NOT EXISTS (SELECT 1 FROM output WHERE output.ref = output_of.ref)
"""
INCONSISTENCIES = (
    _MISSING_EVENTS,
    _WRONG_LAST_SEQ,
    _WRONG_STATE,
    _WRONG_TURN_COUNT,
    _MISSING_INHERITED_EVENTS,
    _WRONG_LAST_OFFSET,
    _WRONG_OPEN_COUNT,
    _MISSING_TEXTS,
    _MISSING_OUTPUTS,
)
"""What is not as it has to be."""

_NOT_IN_REMAINS = "AND session NOT IN (SELECT session FROM remains)"
_TABLES_BY_SESSION = {
    **dict.fromkeys(("inbox", "draft", "created_with"), ""),
    **dict.fromkeys(("turn", "sent", "output_of"), _NOT_IN_REMAINS),  # an import writes these before the session itself
    "event": f"{_NOT_IN_REMAINS} AND session <> 0",
}
ORPHANS = (
    *(
        f"""SELECT count(*) || ' rows of {table} are of session ' || session || ', which there is not'
        FROM {table} WHERE session NOT IN (SELECT id FROM session) {and_not} GROUP BY session"""  # noqa: S608 - as above
        for table, and_not in _TABLES_BY_SESSION.items()
    ),
    """SELECT 'session ' || child || ', which there is not, is said to go on from session ' || parent
    FROM fork WHERE child NOT IN (SELECT id FROM session) AND child NOT IN (SELECT session FROM remains)""",
    """SELECT orphans || ' long texts are of no event' FROM (
        SELECT count(*) AS orphans FROM text WHERE NOT EXISTS (SELECT 1 FROM event WHERE event.text = text.digest)
    ) WHERE orphans""",
    """SELECT orphans || ' entries in the index of what was said are of no event' FROM (
        SELECT count(*) AS orphans FROM said_docsize WHERE id NOT IN (SELECT "offset" FROM event)
    ) WHERE orphans""",
)
"""What nobody owns: it does no harm, and takes room."""

COUNTS = """
SELECT (SELECT count(*) FROM session),
    (SELECT count(*) FROM remains WHERE session NOT IN (SELECT parent FROM fork)),
    (SELECT count(*) FROM output WHERE ref NOT IN (SELECT ref FROM output_of))
"""
"""Sessions; and what waits to be thrown away: sessions that nobody reads any more, and outputs."""
NEWEST_SESSION = "SELECT id, in_turn FROM session WHERE id < ? ORDER BY id DESC LIMIT 1"
EVENTS = """
SELECT seq, body FROM (SELECT seq, body, CAST(body AS TEXT) AS told FROM event WHERE session = ?)
WHERE told GLOB '{"type":"assistant_message",*' OR told GLOB '{"type":"tool_result",*' OR told GLOB '{"type":"done",*'
    OR iif(json_valid(told), json_type(told, '$.type'), '') IS NOT 'text'
ORDER BY seq
"""
"""Those that have to come in pairs, and those that are no events at all. What is left of one whose long text is kept
apart is JSON, too.
"""
TEXTS = "SELECT seq, digest, text.body FROM event JOIN text ON digest = event.text WHERE session = ? ORDER BY seq"
ENDED_TURNS = "SELECT turn, last_seq FROM turn WHERE session = ? AND last_seq IS NOT NULL"
