"""Messages are found by their words, alike in both stores, and the snippets show the original text."""

from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.memory_log import MemoryLog
from tests.fakes.stores import LogDisk, SqliteDisk, commit, submit_all, write
from walrus_protocol.content import FilePart, MessageKind, TextPart
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    SessionCreated,
    ToolResult,
    UserMessage,
    encode,
)
from walrus_protocol.methods.search import Hit, Mark
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log, Write
from walrusd.store.errors import StorageFailed
from walrusd.store.search import MAX_HIGHLIGHTED, MAX_SNIPPET, query_terms

QUERY_SYNTAX = (
    '"',
    '""',
    "*",
    "***",
    "a AND",
    "NOT b",
    "NEAR(a b",
    "said:a",
    "^a",
    "{a b}:c",
    "a OR",
    "(",
    "-a",
    "+",
    "'",
    "\0",
)


def user_message(text: str) -> UserMessage:
    return UserMessage(content=text)


def message_write(session: int, *events: AnySessionEvent, first_seq: int = 1) -> Write:
    return write(session=session, bodies=[encode(event) for event in events], first_seq=first_seq)


async def hit_positions(log: Log, query: str) -> list[tuple[int, int]]:
    return [(hit.session, hit.seq) for hit in await log.search(query)]


async def hit_seqs(log: Log, query: str) -> list[int]:
    return [hit.seq for hit in await log.search(query)]


def marked_texts(hit: Hit) -> list[str]:
    return [hit.snippet[mark.start : mark.end] for mark in hit.marks]


async def test_a_query_finds_messages_with_all_its_words_newest_first(log: Log) -> None:
    poet = SessionState(id=1, state="idle", agent="poet")
    question = UserMessage(content="Tell the walrus that the Sea is\n\tboiling hot", ts=5.0)
    answer = AssistantMessage(round=1, content="The walrus knows. Do pigs have wings?", ts=6.5)
    poet_write = write(session=1, session_state=poet, bodies=[encode(question), encode(answer)], first_seq=2)
    await commit(log, poet_write, message_write(2, user_message("a walrus at sea"), first_seq=4))
    assert await log.search("WALRUS") == [
        Hit(session=2, seq=4, offset=3, agent="", role="user", ts=0.0, snippet="a walrus at sea", marks=(Mark(2, 8),)),
        Hit(
            session=1,
            seq=3,
            offset=2,
            agent="poet",
            role="assistant",
            ts=6.5,
            snippet="The walrus knows. Do pigs have wings?",
            marks=(Mark(4, 10),),
        ),
        Hit(
            session=1,
            seq=2,
            offset=1,
            agent="poet",
            role="user",
            ts=5.0,
            snippet="Tell the walrus that the Sea is boiling hot",
            marks=(Mark(9, 15),),
        ),
    ]
    assert await hit_positions(log, "sea walrus") == [(2, 4), (1, 2)]
    assert await hit_positions(log, "walrus wings") == [(1, 3)]
    assert await hit_positions(log, "walruses") == []


async def test_quotes_match_a_phrase_and_a_star_matches_a_prefix(log: Log) -> None:
    await commit(
        log,
        message_write(
            1,
            user_message("to be or not to be"),
            user_message("not to worry"),
            user_message("notary"),
            user_message("be not"),
        ),
    )
    assert await hit_seqs(log, '"not to"') == [2, 1]
    assert await hit_seqs(log, '"not to" be') == [1]
    assert await hit_seqs(log, "not*") == [4, 3, 2, 1]
    assert await hit_seqs(log, '"not t"*') == [2, 1]
    assert await hit_seqs(log, '"not to be') == [1]
    assert await hit_seqs(log, "not-to") == [2, 1]
    assert await hit_seqs(log, "be OR worry") == []
    assert await hit_seqs(log, "or") == [1]


async def test_case_and_accents_are_ignored(log: Log) -> None:
    await commit(
        log,
        message_write(
            1, user_message("Crème BRÛLÉE, 5 °C"), user_message("Cre\u0300me"), user_message("Ελληνικά, ПРИВЕТ")
        ),
    )
    assert await hit_seqs(log, "creme") == [2, 1]
    assert await hit_seqs(log, "CRÈME brulée") == [1]
    assert await hit_seqs(log, "ΕΛΛΗΝΙΚΆ привет") == [3]
    assert await hit_seqs(log, "5") == [1]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("海象在冰上睡觉。", ["海象", "冰", "上睡觉", "睡觉", "海象在冰上睡觉"]),
        ("私は海象です", ["海象", "です", "象で", "私"]),
        ("바다코끼리는 물고기를 먹는다", ["코끼리", "물고기", "먹"]),
        ("วอลรัสกินปลา", ["กิน", "ปลา"]),
        ("the海象sleeps", ["海象", "the", "sleeps", "the海象"]),
    ],
)
async def test_text_of_a_script_without_spaces_is_found_by_any_part_of_it(
    log: Log, text: str, parts: list[str]
) -> None:
    await commit(log, message_write(1, user_message(text), user_message("別の話 other")))
    for part in parts:
        (hit,) = await log.search(part)
        assert (hit.seq, hit.snippet, marked_texts(hit)) == (1, text, [part])
    assert await hit_seqs(log, "象海") == []


@pytest.mark.parametrize(
    "text",
    ["great🥳", "🤖great", "great👍🏽", "₿great", "🫠great🫠", "\u2067great\u2069", "\ufdd0great\ufdd1", "great⏸️"],
)
async def test_a_symbol_next_to_a_word_is_not_part_of_it(log: Log, text: str) -> None:
    await commit(log, message_write(1, user_message(text)))
    [hit] = await log.search("great")
    assert marked_texts(hit) == ["great"]
    assert [hit.snippet for hit in await log.search(text)] == [text]


async def test_the_text_parts_of_a_message_are_searched(log: Log) -> None:
    parts = (TextPart("look at this"), FilePart(name="secret.txt", data="c2VjcmV0"), TextPart("walrus"))
    await commit(log, message_write(1, UserMessage(content=parts)))
    (hit,) = await log.search("walrus look")
    assert (hit.snippet, marked_texts(hit)) == ("look at this walrus", ["look", "walrus"])
    assert await log.search("secret") == []


async def test_events_that_are_not_messages_of_users_or_models_are_not_found(log: Log) -> None:
    automatic_kinds: list[MessageKind] = ["heartbeat", "schedule", "resume"]
    user_kinds: list[MessageKind] = ["message", "steer", "task"]
    unsearchable: list[AnySessionEvent] = [
        SessionCreated(agent="walrus", title="walrus"),
        AssistantMessage(round=1, thinking="a walrus?"),
        ToolResult(call_id="c", name="read", output="walrus"),
        Done(stop_reason="text_response", text="walrus"),
        *(UserMessage(content="walrus", kind=kind) for kind in automatic_kinds),
    ]
    await commit(
        log, message_write(1, *unsearchable), write(session=0, bodies=[b'{"type":"tick","text":"walrus"}'], first_seq=1)
    )
    half, parts = b'{"type":"user_message","content":"walrus"', b'{"type":"user_message","content":[{"walrus":1}]}'
    bodies = [b"walrus", half, parts, b'{"type":"newer_message","content":"walrus"}']
    await commit(log, write(session=2, bodies=bodies, first_seq=1))
    assert await log.search("walrus") == []
    await commit(log, message_write(3, *(UserMessage(content="walrus", kind=kind) for kind in user_kinds)))
    assert await hit_positions(log, "walrus") == [(3, 3), (3, 2), (3, 1)]


async def test_the_next_page_continues_after_the_last_hit_of_the_previous_one(log: Log) -> None:
    await commit(
        log, *(message_write(session, user_message("walrus"), user_message("fish")) for session in range(1, 8))
    )
    first = await log.search("walrus", limit=3)
    await commit(log, message_write(9, user_message("a newer walrus")))
    second = await log.search("walrus", before=first[-1].offset, limit=3)
    last = await log.search("walrus", before=second[-1].offset, limit=3)
    assert [hit.session for page in (first, second, last) for hit in page] == [7, 6, 5, 4, 3, 2, 1]
    assert await log.search("walrus", before=last[-1].offset) == []


async def test_the_snippet_of_a_long_text_is_the_part_around_the_match(log: Log) -> None:
    words = " ".join(f"word{n}" for n in range(3000))
    await commit(log, message_write(1, user_message(f"{words} the walrus {words}")))
    (hit,) = await log.search("walrus")
    assert marked_texts(hit) == ["walrus"]
    assert hit.snippet.startswith("…word")
    assert hit.snippet.endswith("…")
    assert len(hit.snippet) <= MAX_SNIPPET + 2


async def test_a_very_long_word_is_clipped_in_the_snippet(log: Log) -> None:
    long = "x" * 5000
    await commit(log, message_write(1, user_message(f"{long} walrus {long}")), message_write(2, user_message(long)))
    (hit,) = await log.search("walrus")
    assert marked_texts(hit) == ["walrus"]
    assert len(hit.snippet) <= MAX_SNIPPET + 2
    (hit,) = await log.search(f"{long[:100]}* walrus")
    assert hit.snippet == "x" * MAX_SNIPPET + "…"
    assert marked_texts(hit) == ["x" * MAX_SNIPPET]


async def test_a_match_beyond_the_highlighted_part_is_a_hit_without_a_mark(log: Log) -> None:
    await commit(log, message_write(1, user_message("begin " + "word " * (MAX_HIGHLIGHTED // 5) + "walrus")))
    (hit,) = await log.search("walrus")
    assert (hit.snippet[:5], hit.marks) == ("begin", ())
    (hit,) = await log.search("walrus begin")
    assert marked_texts(hit) == ["begin"]


async def test_any_text_can_be_stored_and_searched(log: Log) -> None:
    await commit(log, message_write(1, user_message("\x01\x02\x03 a\x02b\0c \x1b[31mred walrus\x03 \u2028end 🦭")))
    (hit,) = await log.search("walrus")
    assert (hit.snippet, marked_texts(hit)) == ("a b c \x1b[31mred walrus end 🦭", ["walrus"])
    assert await hit_seqs(log, "c end") == [1]
    for query in QUERY_SYNTAX:
        assert isinstance(await log.search(query), list)


async def test_a_query_without_a_word_finds_nothing(log: Log) -> None:
    await commit(log, message_write(1, user_message("a walrus 🦭 !?")))
    for query in ("", " ", "🦭", "!?", '"..."', "*", "\u0301"):
        assert query_terms(query) == []
        assert await log.search(query) == []
    assert await hit_seqs(log, "walrus 🦭 !?") == [1]


@given(query=st.text(max_size=40), text=st.text(max_size=40))
@settings(max_examples=300, deadline=None)  # no deadline: each search builds an index
async def test_no_query_is_an_error_and_a_text_finds_itself(query: str, text: str) -> None:
    log = MemoryLog()
    await commit(log, message_write(1, user_message(text or "-")))
    for hit in await log.search(query):
        assert all(0 <= mark.start < mark.end <= len(hit.snippet) for mark in hit.marks)
    assert [hit.seq for hit in await log.search(text)] == ([1] if query_terms(text) else [])


@pytest.mark.parametrize("count", [512, 1024])
async def test_a_query_may_have_very_many_words(log: Log, count: int) -> None:
    words = " ".join(f"w{number}" for number in range(count))
    await commit(log, message_write(1, user_message(words)), message_write(2, user_message("w1 w2")))
    assert await hit_positions(log, words) == [(1, 1)]


async def test_the_message_of_a_failed_write_is_not_found(log: Log) -> None:
    await commit(log, message_write(1, user_message("first")))
    written, failed = await submit_all(
        log, message_write(2, user_message("walrus")), message_write(1, user_message("walrus too"))
    )
    assert (written, type(failed)) == (2, StorageFailed)
    assert await hit_positions(log, "walrus") == [(2, 1)]


async def test_messages_are_found_after_a_restart(disk: LogDisk) -> None:
    log = await disk.open()
    await commit(log, message_write(1, user_message("walrus")))
    await log.aclose()
    log = await disk.open()
    await commit(log, message_write(2, user_message("walrus")))
    assert await hit_positions(log, "walrus") == [(2, 1), (1, 1)]
    await log.aclose()


async def test_the_index_stores_no_text_and_a_deleted_row_is_not_found(tmp_path: Path) -> None:
    disk = SqliteDisk(tmp_path)
    log = await disk.open()
    await commit(log, message_write(1, user_message("a walrus")))
    await log.aclose()
    db = apsw.Connection(disk.path)
    assert db.execute("SELECT rowid, text FROM said").fetchall() == [(1, None)]
    db.execute("INSERT INTO said (said) VALUES ('integrity-check')")
    db.execute("DELETE FROM said WHERE rowid = 1")
    assert db.execute("SELECT rowid FROM said WHERE said MATCH 'walrus'").fetchall() == []
    assert db.pragma("integrity_check") == "ok"
    db.close()
