"""A long text is stored once, beside the bodies that contain it, and readers get the whole bodies."""

import json
from pathlib import Path

import apsw
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fakes.stores import SqliteDisk, commit, write
from walrus_protocol.content import ToolCall
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import AnySessionEvent, AssistantMessage, Done, ToolCallsStart, UserMessage, encode
from walrusd.session.session_state import SessionState
from walrusd.store.contract import StreamFilter
from walrusd.store.tables.event import MIN_BODY_BYTES, MIN_TEXT_BYTES, EventRow, detach

texts = st.builds(
    lambda text, times: text * times, st.text('ab "\\\né🦭\0', min_size=1, max_size=9), st.integers(1, 900)
)
values = st.text(max_size=20) | st.integers() | texts | st.lists(texts, max_size=3)
objects = st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=5)


@given(objects.map(lambda one: json.dumps(one, ensure_ascii=False).encode()) | st.binary(max_size=3 * MIN_BODY_BYTES))
@example(b'"' + b"\\" * MIN_BODY_BYTES)
@example(b'"' * 2 * MIN_BODY_BYTES)
def test_reattaching_a_detached_text_restores_the_body(body: bytes) -> None:
    if detached := detach(body):
        rest, at = detached.rest, detached.position
        assert rest[:at] + detached.text + rest[at:] == body
        assert len(detached.text) >= MIN_TEXT_BYTES


@given(objects)
def test_the_rest_of_a_body_is_the_same_json_with_an_empty_string(one: dict[str, object]) -> None:
    if detached := detach(json.dumps(one).encode()):
        longest = json.loads(b'"%s"' % detached.text)
        assert json.loads(detached.rest) in [
            {("" if key == longest else key): with_text_removed(value, longest, place) for key, value in one.items()}
            for place in range(3)
        ]


def with_text_removed(value: object, longest: str, place: int) -> object:
    if isinstance(value, list):
        return [("" if number == place and text == longest else text) for number, text in enumerate(value)]
    return "" if value == longest else value


@pytest.fixture
def disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path)


def stored_text_sizes(disk: SqliteDisk) -> list[int]:
    db = apsw.Connection(disk.path, apsw.SQLITE_OPEN_READONLY)
    sizes = [size for (size,) in db.execute("SELECT length(body) FROM text ORDER BY 1")]
    db.close()
    return sizes


async def test_a_text_is_stored_once_for_all_events_that_contain_it(disk: SqliteDisk) -> None:
    answer, script = "the answer " * 1000, "print('hello')\n" * 1000
    calls = (ToolCall("c1", "bash", {"command": script}),)
    events: list[AnySessionEvent] = [
        UserMessage(content="Hi"),
        AssistantMessage(round=1, calls=calls, finish="tool_calls"),
        ToolCallsStart(calls=calls),
        AssistantMessage(round=2, content=answer),
        Done(stop_reason="text_response", text=answer),
    ]
    bodies = [encode(event) for event in events]
    log = await disk.open()
    for session in (1, 2):
        state = SessionState(id=session, agent="a", state="idle")
        await commit(log, write(session=session, session_state=state, bodies=bodies, first_seq=1))
    assert stored_text_sizes(disk) == [len(answer), len(json.dumps(script)) - 2]
    assert [row.body for row in await log.events(1, 0, 9)] == bodies
    assert [row.body for row in await log.events(2, 1, 2)] == bodies[1:3]
    page = await log.stream_page(StreamFilter(types=frozenset({"done"})), 0, log.last_offset(), 9)
    assert page.rows == [EventRow(5, 5, bodies[4]), EventRow(5, 10, bodies[4])]
    assert [(hit.session, hit.seq) for hit in await log.search("answer")] == [(2, 4), (1, 4)]
    await log.aclose()
    log = await disk.open()
    assert [row.body for row in await log.events(2, 0, 9)] == bodies
    await log.aclose()


async def test_pages_count_the_whole_bodies(disk: SqliteDisk) -> None:
    bodies = [encode(UserMessage(content=letter * 10_000)) for letter in "abc"]
    log = await disk.open()
    await commit(log, write(session=1, bodies=bodies, first_seq=1))
    assert [row.body for row in await log.events(1, 0, 9, max_bytes=25_000)] == bodies[:2]
    assert [row.body for row in await log.events(1, 2, 9, max_bytes=1)] == bodies[2:]
    await log.aclose()


async def test_the_text_of_a_daemon_event_is_deleted_with_it(disk: SqliteDisk) -> None:
    log = await disk.open()
    bodies = [encode(UserMessage(content=letter * 10_000)) for letter in "ab"]
    await commit(log, write(session=DAEMON_SESSION, bodies=[bodies[0]], first_seq=1))
    assert stored_text_sizes(disk) == [10_000]
    await commit(log, write(session=DAEMON_SESSION, bodies=[bodies[1]], first_seq=100_001))
    assert stored_text_sizes(disk) == [10_000]
    assert [row.seq for row in await log.events(DAEMON_SESSION, 0, 9)] == [100_001]
    await log.aclose()
