"""The Problems that the runtime raises for storage failures, unreadable logs and unknown sessions."""

import contextlib
from collections.abc import Iterator

from walrus_protocol.events import AnySessionEvent, decode_row
from walrus_protocol.json import BadJson
from walrus_protocol.problems import Problem
from walrusd.store.errors import StorageFailed
from walrusd.store.tables.event import EventRow


@contextlib.contextmanager
def attach_to_storage_errors(**data: object) -> Iterator[None]:
    """Attaches `data` to a StorageFailed: the session that it is about."""
    try:
        yield
    except StorageFailed as failure:
        raise failure.with_data(**data) from failure


def unreadable_log(session: int, seq: int, reason: object) -> Problem:
    """Returns the Problem storage_failed of a log that cannot be read from `seq` on."""
    return Problem(
        "storage_failed",
        f"the log of session {session} cannot be read on from seq {seq}: {reason}",
        "Other sessions are not affected. Restore walrus.db from a backup; `walrusctl doctor` checks the rest.",
        session=session,
    )


def decode_event(session: int, row: EventRow) -> AnySessionEvent:
    """Decodes one row of the log of `session`. Raises Problem storage_failed if it cannot be decoded."""
    try:
        return decode_row(row.body)
    except BadJson as error:
        raise unreadable_log(session, row.seq, error) from error


def session_not_found(session: int) -> Problem:
    """Returns the Problem of a session id that does not exist."""
    return Problem("session_not_found", f"there is no session {session}", "`walrusctl session list --all` lists them.")
