"""A long text is kept once, beside the bodies that say it, and no reader can tell."""

import json
from pathlib import Path

import apsw
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fakes.stores import SqliteDisk, commit, write
from walrus_protocol.content import ToolCall
from walrus_protocol.events import AssistantMessage, Done, Durable, ToolCallsStart, UserMessage, encode
from walrusd.session.outline import Outline
from walrusd.store.log import DAEMON, Stored, Wanted
from walrusd.store.texts import LARGE, LONG, joined, split

texts = st.builds(
    lambda text, times: text * times, st.text('ab "\\\né🦭\0', min_size=1, max_size=9), st.integers(1, 900)
)
values = st.text(max_size=20) | st.integers() | texts | st.lists(texts, max_size=3)
objects = st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=5)


@given(objects.map(lambda one: json.dumps(one, ensure_ascii=False).encode()) | st.binary(max_size=3 * LARGE))
@example(b'"' + b"\\" * LARGE)
@example(b'"' * 2 * LARGE)
def test_what_is_taken_apart_is_put_together_again(body: bytes) -> None:
    if apart := split(body):
        assert joined(apart) == body
        assert len(apart.text) >= LONG


@given(objects)
def test_what_is_left_is_the_same_json_with_an_empty_string_in_it(one: dict[str, object]) -> None:
    if apart := split(json.dumps(one).encode()):
        longest = json.loads(b'"%s"' % apart.text)
        assert json.loads(apart.rest) in [
            {("" if key == longest else key): emptied(value, longest, place) for key, value in one.items()}
            for place in range(3)
        ]


def emptied(value: object, longest: str, place: int) -> object:
    if isinstance(value, list):
        return [("" if number == place and text == longest else text) for number, text in enumerate(value)]
    return "" if value == longest else value


@pytest.fixture
def disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path)


def kept_texts(disk: SqliteDisk) -> list[int]:
    db = apsw.Connection(disk.path, apsw.SQLITE_OPEN_READONLY)
    sizes = [size for (size,) in db.execute("SELECT length(body) FROM text ORDER BY 1")]
    db.close()
    return sizes


async def test_an_answer_and_a_call_are_kept_once_for_all_events_that_say_them(disk: SqliteDisk) -> None:
    answer, script = "the answer " * 1000, "print('hello')\n" * 1000
    calls = (ToolCall("c1", "bash", {"command": script}),)
    events: list[Durable] = [
        UserMessage(content="Hi"),
        AssistantMessage(round=1, calls=calls, finish="tool_calls"),
        ToolCallsStart(calls=calls),
        AssistantMessage(round=2, content=answer),
        Done(stop_reason="text_response", text=answer),
    ]
    bodies = [encode(event) for event in events]
    log = await disk.open()
    for session in (1, 2):
        outline = Outline(id=session, agent="a", state="idle")
        await commit(log, write(session=session, outline=outline, bodies=bodies, first_seq=1))
    assert kept_texts(disk) == [len(answer), len(json.dumps(script)) - 2]
    assert [row.body for row in await log.events(1, 0, 9)] == bodies
    assert [row.body for row in await log.events(2, 1, 2)] == bodies[1:3]
    page = await log.stream(Wanted(types=frozenset({"done"})), 0, log.last_offset(), 9)
    assert page.rows == [Stored(5, 5, bodies[4]), Stored(5, 10, bodies[4])]
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


async def test_the_text_of_a_fact_of_the_daemon_goes_with_it(disk: SqliteDisk) -> None:
    log = await disk.open()
    facts = [encode(UserMessage(content=letter * 10_000)) for letter in "ab"]
    await commit(log, write(session=DAEMON, bodies=[facts[0]], first_seq=1))
    assert kept_texts(disk) == [10_000]
    await commit(log, write(session=DAEMON, bodies=[facts[1]], first_seq=100_001))
    assert kept_texts(disk) == [10_000]
    assert [row.seq for row in await log.events(DAEMON, 0, 9)] == [100_001]
    await log.aclose()
