"""A session that has come: told of in the same transaction, and as new here as it is, however old it is elsewhere."""

import json

import pytest

from tests.fakes.documents import IMPORTED_AT, Chat, as_text, document, imported
from tests.fakes.stores import LogDisk, disk
from walrus_protocol.events import SessionClosed
from walrusd.runtime.portable.event import LATEST
from walrusd.store.log import DAEMON, Wanted

__all__ = ["disk"]


async def test_the_fact_that_it_is_there_comes_behind_all_its_events(disk: LogDisk) -> None:
    log = await disk.open()
    chat = Chat(1)
    chat.turn("one")
    made = await imported(log, as_text(document(chat)))
    page = await log.stream(Wanted(), 0, log.last_offset(), 100)
    assert [(row.seq, row.offset) for row in page.rows] == [(1, 1), (2, 2), (3, 3), (4, 4), (0, 5)]
    assert json.loads(page.rows[-1].body) == {
        "type": "session_imported",
        "ts": IMPORTED_AT,
        "session": None,
        "turn": None,
        "imported": made.session,
        "agent": "walrus",
    }
    assert [row.offset for row in await log.events(DAEMON, 0, 10)] == [5]
    await log.aclose()


@pytest.mark.parametrize("closed_there", [5.0, LATEST])
async def test_one_that_was_closed_is_kept_from_now_on(disk: LogDisk, closed_there: float) -> None:
    log = await disk.open()
    chat = Chat(1)
    chat.hear(SessionClosed(by="me"))
    told = document(chat)
    told["events"][-1]["ts"] = closed_there
    made = await imported(log, as_text(told))
    assert made.session is not None
    assert await log.closed(IMPORTED_AT, enough=1, most=10) == []
    (closed,) = await log.closed(IMPORTED_AT + 1, enough=1, most=10)
    assert (closed.session, closed.closed_at) == (made.session, IMPORTED_AT)
    outline = await log.outline(made.session)
    assert outline is not None
    assert outline.updated_at == closed_there
    await log.aclose()
