"""Every kind of invalid document is refused with an error that names the location, and leaves no rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.fakes.export_documents import (
    CALL,
    LONG_OUTPUT,
    ExportDict,
    SessionLogBuilder,
    build_document,
    encode_document,
    import_text,
    three_generations,
)
from tests.fakes.stores import SqliteDisk
from walrus_protocol.events import AssistantMessage, Parent, Rewound, ToolCallsStart, UserMessage
from walrus_protocol.problems import Problem
from walrusd.store.contract import Log
from walrusd.store.tables.session import SessionFilter

DocumentChange = Callable[[ExportDict], object]


async def import_problem(log: Log, text: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await import_text(log, text)
    assert caught.value.hint
    return caught.value


def problem_detail(problem: Problem) -> str:
    assert problem.kind == "invalid_params"
    return problem.message.removeprefix("this cannot be imported: ")


def change_event(number: int, /, **fields: object) -> DocumentChange:
    """Returns a change of fields of one of the session's own events."""
    return lambda document: document["events"][number].update(fields)


def change_member(name: str, **fields: object) -> DocumentChange:
    return lambda document: document[name].update(fields)


def remove(*path: Any) -> DocumentChange:
    def change(document: ExportDict) -> None:
        *parents, last = path
        for step in parents:
            document = document[step]
        del document[last]

    return change


def nest_too_deeply(document: ExportDict) -> None:
    nested: object = {}
    for _ in range(300):
        nested = {"a": nested}
    document["events"][5]["calls"][0]["arguments"] = document["events"][6]["calls"][0]["arguments"] = nested


def duplicate_item(name: str, at: int = 0) -> DocumentChange:
    return lambda document: document[name].append(document[name][at])


def cut_within_a_turn(document: ExportDict) -> None:
    del document["events"][-1]
    document["session"]["last_seq"] -= 1


def ancestor_cut_short(document: ExportDict) -> None:
    del document["ancestors"][0]["events"][-1]
    document["ancestors"][0]["upto"] -= 1


def lengthen_output(document: ExportDict) -> None:
    document["outputs"][0]["text"] += "x"


INVALID_DOCUMENTS: dict[str, tuple[DocumentChange, str]] = {
    "an older version": (lambda document: document.update(walrus_export=0), "walrus_export: there is no version 0"),
    "a version that is a string": (
        lambda document: document.update(walrus_export="1"),
        "walrus_export: Expected `int`, got `str`",
    ),
    "no version": (remove("walrus_export"), "walrus_export: the field is missing"),
    "an unknown member": (
        lambda document: document.update(colour=1),
        "colour: unknown field; this walrusd knows walrus_",
    ),
    "a missing member": (remove("keys"), "keys: the field is missing"),
    "an object in place of a list": (lambda document: document.update(events={}), "an array is missing"),
    "a string in place of a number": (
        lambda document: document.update(exported_at="now"),
        "exported_at: Expected `float`, got `str`",
    ),
    "an unknown field of the session": (
        change_member("session", colour=1),
        "session: Object contains unknown field `colour`",
    ),
    "a wrong agent": (change_member("session", agent="a"), "session.agent: it is 'a', but 'walrus' by the events"),
    "a wrong number of the turn left out": (
        change_member("session", turn_left_out=9),
        "session.turn_left_out: it is 9, but the document has 2 turns",
    ),
    "the last event missing": (remove("events", -1), "events: they end within turn 2, which has no done event"),
    "the last turn missing": (
        lambda document: document.update(events=document["events"][:4]),
        "session.last_seq: it is 12, but 4",
    ),
    "no events": (lambda document: document.update(events=[]), "events: there are no events"),
    "ends in a turn": (cut_within_a_turn, "events: they end within turn 2, which has no done event"),
    "an event that is no object": (
        lambda document: document["events"].insert(3, 7),
        "events[3]: Expected `object`, got `int`",
    ),
    "no type": (remove("events", 3, "type"), "events[3]: Object missing required field `type`"),
    "an unknown type": (change_event(3, type="x"), "events[3]: Invalid value 'x' - at `$.type`"),
    "a live event": (change_event(3, type="text_delta"), "events[3]: Invalid value 'text_delta' - at `$.type`"),
    "a wrong type": (change_event(2, round="one"), "events[2]: Expected `int`, got `str` - at `$.round`"),
    "an unknown field": (change_event(2, colour="red"), "events[2].colour: unknown field"),
    "a nested unknown field": (
        lambda document: document["events"][5]["calls"][0].update(colour=1),
        "events[5].calls[0].colour: unknown field",
    ),
    "an offset": (change_event(2, offset=9), "events[2].offset: an exported event has no offset"),
    "a gap": (remove("events", 2), "events[2].seq: it is 4, not 3; events are numbered from 1 without gaps"),
    "no seq": (remove("events", 2, "seq"), "events[2].seq: it is None"),
    "another session's event": (
        change_event(2, session=3),
        "events[2].session: it is 3, but 8 in the events before it",
    ),
    "no session": (change_event(0, session=None), "events[0].session: it is None, but 0"),
    "a wrong turn": (change_event(2, turn=7), "events[2].turn: it is 7, but must be 1 here"),
    "a negative time": (change_event(2, ts=-1), "events[2].ts: -1.0 is not a valid time"),
    "a time out of range": (change_event(2, ts=1e300), "events[2].ts: 1e+300 is not a valid time"),
    "no session_created": (
        change_event(0, type="checkpoint_created", name="a", at=1),
        "events[0].agent: unknown field",
    ),
    "a title that is too long": (
        change_event(0, title="x" * 2000),
        "events[0].title: it is 2,000 characters long; the limit",
    ),
    "a key that is too long": (
        change_event(1, key="x" * 300),
        "events[1].key: it is 300 characters long; the limit is 256",
    ),
    "an event larger than a frame": (change_event(2, content="x" * 17_000_000), "events[2]: it takes 17,000,"),
    "nesting that is too deep": (nest_too_deeply, "events[5]: it is nested too deeply"),
    "two dones": (
        lambda document: document["events"].insert(4, {**document["events"][3], "seq": 5}),
        "done may not follow in state",
    ),
    "a result twice": (
        lambda document: document["events"].insert(9, {**document["events"][8], "seq": 10}),
        "events[9]: session 8: tool_result may not follow in state executing_tool: call c1 is not open",
    ),
    "an unpaired call": (remove("events", 8), "events[8].seq: it is 10"),
    "the result of an unknown call": (
        change_event(8, call_id="c9"),
        "tool_result may not follow in state executing_tool: call c9",
    ),
    "a wrong count of messages": (
        change_event(3, messages=99),
        "events[3].messages: there are 9 messages by then, not 99",
    ),
    "no ancestors": (
        lambda document: document.update(ancestors=[]),
        "ancestors: the oldest is a fork of session 5, which is",
    ),
    "the oldest missing": (remove("ancestors", 0), "ancestors: the oldest is a fork of session 3, which is missing"),
    "an ancestor without its last event": (
        ancestor_cut_short,
        "the parent of session 5: it is session 3 up to seq 12, but the log before it",
    ),
    "a wrong upto": (
        lambda document: document["ancestors"][0].update(upto=3),
        "ancestors[0].upto: the events end at seq 12",
    ),
    "a wrong session of an ancestor": (
        lambda document: document["ancestors"][0].update(session=4),
        "ancestors[0].session: its events are of session 3",
    ),
    "ancestors in another order": (
        lambda document: document["ancestors"].reverse(),
        "ancestors: the oldest is a fork of",
    ),
    "an unknown field of an ancestor": (
        lambda document: document["ancestors"][1].update(x=1),
        "ancestors[1].x: unknown field",
    ),
    "an ancestor without events": (remove("ancestors", 1, "events"), "ancestors[1].events: the field is missing"),
    "a changed output": (lengthen_output, "outputs[0].ref: it is not the hash of the text"),
    "an output twice": (duplicate_item("outputs"), "outputs[1].ref: it occurs twice"),
    "an output without a reference": (
        lambda document: document["outputs"].append({"ref": "2d711642b726b04401627ca9fbac32f5", "text": "x"}),
        "outputs[1].ref: no tool_result refers to it",
    ),
    "a key twice": (duplicate_item("keys"), "keys[1].key: it occurs twice"),
    "a key without a message": (
        lambda document: document["keys"][0].update(key="z"),
        "keys: they differ from the keys of the messages: 'k' is",
    ),
    "a key without digest": (
        lambda document: document["keys"][0].update(digest="0"),
        "keys[0]: Expected `str` matching regex",
    ),
    "a key used twice": (change_event(4, key="k"), "events[4].key: 'k' was used by an earlier message"),
}


@pytest.mark.parametrize("name", INVALID_DOCUMENTS)
async def test_an_invalid_document_is_refused(name: str, tmp_path: Path) -> None:
    change, expected = INVALID_DOCUMENTS[name]
    document = three_generations()
    change(document)
    log = await SqliteDisk(tmp_path).open()
    message = problem_detail(await import_problem(log, encode_document(document)))
    assert expected in message, message
    await log.aclose()
    assert row_counts(tmp_path) == {}


def row_counts(folder: Path) -> dict[str, int]:
    """Returns the number of rows of each table that has any, except the counters."""
    db = apsw.Connection(SqliteDisk(folder).path)
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    table_names = [name for name in tables if not name.startswith(("said_", "sqlite_")) and name != "counter"]
    counts = {name: db.execute(f"SELECT count(*) FROM {name}").get for name in table_names}
    db.close()
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the document: it is cut off after character 0"),
        ("hello", "the document: at character 1: an object is missing"),
        ("null", "the document: at character 1: an object is missing"),
        ("{}", "ancestors: the field is missing"),
        (encode_document(three_generations())[:-1], "the document: it is cut off after character"),
        (encode_document(three_generations())[:3000], "the document: it is cut off after character 3,000"),
        (encode_document(three_generations()) + "{}", "there is text after its end"),
        ('{"walrus_export":1,"walrus_export":1}', "'walrus_export' is repeated"),
        ('{"walrus_export":1,"version":"\\ud800"}', "version: "),
        ('{"walrus_export":' + "[" * 100_000, "it is nested too deeply"),
        ('{"events":[' + '{"a":' * 100_000, "it is nested too deeply"),
        ('{"events":[{"seq":1,"ts":' + "9" * 5000 + "}]}", "Exceeds the limit"),
        ('{"events":[{"seq":1,"type":"done","ts":1e999}]}', "events[0]: Number out of range"),
    ],
)
async def test_text_that_is_not_a_document_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    log = await SqliteDisk(tmp_path).open()
    message = problem_detail(await import_problem(log, text))
    assert expected in message, message
    assert await log.list_sessions(SessionFilter(include_closed=True)) == []
    await log.aclose()


async def test_a_newer_version_is_refused_before_anything_else_of_it_is_read(tmp_path: Path) -> None:
    log = await SqliteDisk(tmp_path).open()
    problem = await import_problem(log, '{"walrus_export":2,"unknown_member":{}}')
    assert (problem.kind, problem.message) == (
        "not_available_yet",
        "the document has format version 2; this walrusd knows 1",
    )
    assert "as new as the one that exported it" in problem.hint
    await log.aclose()


def rewound_into_a_call() -> ExportDict:
    chat = SessionLogBuilder(1)
    chat.add_tool_turn("what is there?")
    chat.append(Rewound(to=5, messages=2))
    return build_document(chat, outputs=[LONG_OUTPUT])


def rewound_to_another_count() -> ExportDict:
    chat = SessionLogBuilder(1)
    chat.add_turn("one")
    chat.append(Rewound(to=1, messages=2))
    return build_document(chat)


def forked_from_a_call() -> ExportDict:
    chat = SessionLogBuilder(1)
    chat.append(UserMessage(content="look"), AssistantMessage(round=1, calls=(CALL,)), ToolCallsStart(calls=(CALL,)))
    child = chat.fork(2)
    child.add_turn("and?")
    return build_document(chat, child)


def with_an_unrelated_ancestor() -> ExportDict:
    unrelated, chat = SessionLogBuilder(1), SessionLogBuilder(2)
    return build_document(unrelated, chat)


def with_another_count_at_the_fork() -> ExportDict:
    chat = SessionLogBuilder(1)
    chat.add_turn("one")
    child = SessionLogBuilder(2, Parent(session=1, seq=4, messages=7))
    return build_document(chat, child)


def with_the_same_session_twice() -> ExportDict:
    chat = SessionLogBuilder(1)
    chat.add_turn("one")
    child = chat.fork(1)
    child.add_turn("two")
    return build_document(chat, child)


def with_an_unpaired_call() -> ExportDict:
    chat = SessionLogBuilder(1)
    chat.append(UserMessage(content="look"), AssistantMessage(round=1, calls=(CALL,)), ToolCallsStart(calls=(CALL,)))
    document = build_document(chat)
    document["events"].append({"seq": 5, "type": "tool_calls_complete", "ts": 9, "session": 1, "turn": 1, "count": 1})
    return document


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (rewound_into_a_call(), "events[9]: a conversation cannot continue from seq 5: a tool call is open there"),
        (rewound_to_another_count(), "events[4]: there are 0 messages up to seq 1, not 2"),
        (
            forked_from_a_call(),
            "the parent of session 2: a conversation cannot continue from seq 4: a tool call is open there",
        ),
        (
            with_an_unrelated_ancestor(),
            "the parent of session 2: it is none, but the log before it is session 1 up to seq 1",
        ),
        (with_another_count_at_the_fork(), "the parent of session 2: there are 2 messages up to seq 4, not 7"),
        (with_the_same_session_twice(), "ancestors: a session occurs twice"),
        (
            with_an_unpaired_call(),
            "tool_calls_complete may not follow in state executing_tool: a tool call is still open",
        ),
    ],
)
async def test_a_log_that_no_provider_would_accept_is_refused(
    document: ExportDict, expected: str, tmp_path: Path
) -> None:
    log = await SqliteDisk(tmp_path).open()
    message = problem_detail(await import_problem(log, encode_document(document)))
    assert expected in message, message
    await log.aclose()
    assert row_counts(tmp_path) == {}
