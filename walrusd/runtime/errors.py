"""What a caller is told where the store fails, a log of it cannot be read, or there is none."""

import contextlib
from collections.abc import Iterator

from walrus_protocol.events import AnySessionEvent, decode_row
from walrus_protocol.json import BadJson
from walrus_protocol.problems import Problem
from walrusd.store.contract import EventRow, StorageFailed


@contextlib.contextmanager
def translate_storage_errors(**data: object) -> Iterator[None]:
    """A store that fails, as the Problem that a caller meets."""
    try:
        yield
    except StorageFailed as failure:
        raise Problem(failure.kind, str(failure), failure.hint, **data) from failure


def unreadable_log(session: int, seq: int, reason: object) -> Problem:
    return Problem(
        "storage_failed",
        f"the log of session {session} cannot be read on from seq {seq}: {reason}",
        "Other sessions are not harmed. `walrusctl doctor` says what is wrong; restore walrus.db from a backup.",
        session=session,
    )


def decode_event(session: int, row: EventRow) -> AnySessionEvent:
    """The event of a row of that session's log. Raises Problem storage_failed."""
    try:
        return decode_row(row.body)
    except BadJson as error:
        raise unreadable_log(session, row.seq, error) from error


def session_not_found(session: int) -> Problem:
    return Problem(
        "session_not_found", f"there is no session {session}", "`walrusctl session list --all` shows those there are."
    )
