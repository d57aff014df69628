"""Doctor check of the event log: complete sessions, consistent tables, no orphaned rows.

Rows are compared with each other. Only `walrusctl verify` detects a changed event body.
"""

import os
import time
from collections.abc import Iterator

from walrus_protocol.database import consistency
from walrus_protocol.database.reader import DatabaseReader, DatabaseUnreadable, read_stable
from walrus_protocol.database.schema import SCHEMA_VERSION
from walrusctl.doctor.check import Finding, has_error
from walrusctl.doctor.context import DoctorContext
from walrusctl.doctor.event_pairing import find_unpaired
from walrusctl.formatting import format_count

CHECK_TIMEOUT_S = 4.0
"""Seconds for the whole check; a million events take about as long."""
_ORPHAN_HINT = "this is harmless, but takes space"
_DEFECT_HINT = "restore walrus.db from a backup; if only walrusd has written to it, please report this defect"


def check_event_log(context: DoctorContext) -> Iterator[Finding]:
    path = context.paths.database
    if not os.path.exists(path):
        return
    try:
        yield from read_stable(path, _check_log, is_fault=has_error)
    except DatabaseUnreadable as error:
        yield Finding("error", f"it cannot be read: {error}", "see the finding `database`")


def _check_log(db: DatabaseReader) -> list[Finding]:
    """Returns no findings if the check `database` reports that the database is empty or unknown."""
    if db.is_empty or db.incompatibility():
        return []
    if (schema := db.schema_version) < SCHEMA_VERSION:
        return [Finding("ok", f"it has schema {schema}: the next start of walrusd makes a backup and upgrades it")]
    return examine_log(db, CHECK_TIMEOUT_S)


def examine_log(db: DatabaseReader, timeout_s: float) -> list[Finding]:
    """Returns all problems found within the time limit, or one ok finding. Raises DatabaseUnreadable."""
    found: list[Finding] = []
    checked, (sessions, deleted, outputs) = 0, consistency.count_log(db)
    end = time.monotonic() + timeout_s
    db.set_deadline(end)
    try:
        with db.snapshot():
            found += [
                Finding("error", text, _DEFECT_HINT)
                for text in consistency.find_problems(db, consistency.INCONSISTENCIES)
            ]
            found += [
                Finding("warning", text, _ORPHAN_HINT) for text in consistency.find_problems(db, consistency.ORPHANS)
            ]
        for rows in consistency.read_sessions(db):
            found += [
                Finding("error", f"session {rows.session}: {problem}", _DEFECT_HINT)
                for problem in _session_problems(rows)[: consistency.MAX_PROBLEMS]
            ]
            checked += 1
            if time.monotonic() > end:
                break
    except TimeoutError:
        pass
    pending = (
        f"; {format_count(deleted, 'deleted session')} and {format_count(outputs, 'output')} wait for removal"
        if deleted or outputs
        else ""
    )
    if checked < sessions:
        message = (
            f"the newest {checked:,} of {format_count(sessions, 'session')} were checked in {timeout_s:g} s{pending}"
        )
        return [*found, Finding("ok", message)]
    message = f"{format_count(sessions, 'session')}{pending}; nothing is missing, unpaired or orphaned"
    return found or [Finding("ok", message)]


def _session_problems(rows: consistency.SessionRows) -> list[str]:
    problems = [
        f"the long text of the event at seq {seq} was changed after walrusd wrote it" for seq in rows.changed_texts
    ]
    try:
        problems += find_unpaired(rows.events, rows.ended_turns, in_turn=rows.in_turn)
    except ValueError as error:
        problems.append(str(error))
    return problems
