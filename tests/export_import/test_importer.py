"""An imported session is announced in its transaction, and its retention starts at the import."""

import json

import pytest

from tests.fakes.export_documents import IMPORTED_AT, SessionLogBuilder, build_document, encode_document, import_text
from tests.fakes.stores import LogDisk, disk
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import SessionClosed
from walrusd.export_import.event_validation import MAX_TIMESTAMP
from walrusd.store.contract import StreamFilter

__all__ = ["disk"]


async def test_session_imported_comes_after_all_events_of_the_session(disk: LogDisk) -> None:
    log = await disk.open()
    chat = SessionLogBuilder(1)
    chat.add_turn("one")
    result = await import_text(log, encode_document(build_document(chat)))
    page = await log.stream_page(StreamFilter(), 0, log.last_offset(), 100)
    assert [(row.seq, row.offset) for row in page.rows] == [(1, 1), (2, 2), (3, 3), (4, 4), (0, 5)]
    assert json.loads(page.rows[-1].body) == {
        "type": "session_imported",
        "ts": IMPORTED_AT,
        "session": None,
        "turn": None,
        "imported": result.session,
        "agent": "walrus",
    }
    assert [row.offset for row in await log.events(DAEMON_SESSION, 0, 10)] == [5]
    await log.aclose()


@pytest.mark.parametrize("closed_at", [5.0, MAX_TIMESTAMP])
async def test_retention_of_an_imported_closed_session_counts_from_the_import(disk: LogDisk, closed_at: float) -> None:
    log = await disk.open()
    chat = SessionLogBuilder(1)
    chat.append(SessionClosed(by="me"))
    document = build_document(chat)
    document["events"][-1]["ts"] = closed_at
    result = await import_text(log, encode_document(document))
    assert result.session is not None
    assert await log.closed_sessions(IMPORTED_AT, limit=10) == []
    (closed,) = await log.closed_sessions(IMPORTED_AT + 1, limit=10)
    assert (closed.session, closed.closed_at) == (result.session, IMPORTED_AT)
    state = await log.session_state(result.session)
    assert state is not None
    assert state.updated_at == closed_at
    await log.aclose()
