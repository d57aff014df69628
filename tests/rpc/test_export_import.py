"""Tests of session.export and session.import: chunks, concurrent uploads, slow readers, limits."""

import json
import os
from collections.abc import Iterator

import pytest
import trio

from tests.fakes.export_documents import (
    LONG_OUTPUT,
    LONG_OUTPUT_REF,
    SessionLogBuilder,
    build_document,
    encode_document,
    three_generations,
    with_ids,
)
from tests.fakes.home import WalrusdProcess
from tests.rpc.raw_client import Json, RawClient, encode_frame, open_raw_client, request
from tests.rpc.test_methods import call_strictly, new_session
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.methods import CloseParams, HistoryParams, ListParams, OutputParams, SendParams
from walrus_protocol.methods.export_import import MAX_CHUNK_CHARS, ExportParams, ImportParams, ImportResult
from walrus_protocol.wire import MAX_DOCUMENT


async def export_document(raw_client: RawClient, session: int) -> str:
    await raw_client.send_request("session.export", {"session": session})
    pieces, answer = await raw_client.receive_chunks()
    text = "".join(pieces)
    assert answer["result"]["bytes"] == len(text.encode())
    assert all(0 < len(piece) <= MAX_CHUNK_CHARS for piece in pieces)
    return text


async def import_document(raw_client: RawClient, text: str) -> int:
    result = await call_strictly(raw_client, "session.import", {"data": text})
    assert result == {"received": len(text.encode()), "session": result["session"], "agent": "echo", "warnings": []}
    session: int = result["session"]
    return session


def echo_document(*logs: SessionLogBuilder) -> str:
    """Returns a document whose agent, echo, exists in the daemon."""
    return encode_document(build_document(*logs)).replace('"agent":"walrus"', '"agent":"echo"')


async def test_an_export_is_imported_beside_the_original(raw_client: RawClient, client: AsyncClient) -> None:
    session = await new_session(raw_client)
    for key in ("a", "b"):
        await client.send(SendParams(session=session, content=f"said {key}", key=key))
    text = await export_document(raw_client, session)
    copy = await import_document(raw_client, text)
    histories = [await client.history(HistoryParams(session=one)) for one in (session, copy)]
    assert histories[0] == histories[1]
    infos = [await call_strictly(raw_client, "session.get", {"session": one}) for one in (session, copy)]
    assert {**infos[1], "id": session} == infos[0]
    assert json.loads(await export_document(raw_client, copy))["events"] == with_ids(text, [copy])["events"]
    repeat = await client.send(SendParams(session=copy, content="said a", key="a"))
    assert (repeat.turn, repeat.text, repeat.last_seq) == (1, "said a", 4)
    error = (await raw_client.call("session.send", {"session": copy, "content": "other", "key": "a"}))["error"]
    assert error["data"]["kind"] == "key_reused"
    next_turn = await client.send(SendParams(session=copy, content="and on"))
    assert (next_turn.turn, next_turn.first_seq) == (3, 8)
    await raw_client.send_request("session.attach", {"session": copy, "follow": False})
    events, end = await raw_client.receive_events()
    assert [event["seq"] for event in events] == [*range(1, 11)]
    assert end["result"] == {"last_seq": 10, "reason": "end"}


async def test_the_inherited_history_and_outputs_of_a_fork_are_imported_with_it(
    raw_client: RawClient, client: AsyncClient
) -> None:
    made = await client.import_(ImportParams(data=encode_document(three_generations())))
    assert made == ImportResult(
        received=len(encode_document(three_generations()).encode()), session=made.session, agent="walrus"
    )
    assert made.session is not None
    assert (await client.output(OutputParams(session=made.session, ref=LONG_OUTPUT_REF))).text == LONG_OUTPUT
    history = await client.history(HistoryParams(session=made.session))
    assert len(history.messages) == 2 + 4 + 2 + 2 + 4
    for ancestor in (made.session - 1, made.session - 2):
        for method in ("session.get", "session.attach", "session.history", "session.fork", "session.export"):
            error = (await raw_client.call(method, {"session": ancestor}))["error"]
            assert error["data"]["kind"] == "session_not_found", method


@pytest.mark.slow
async def test_ten_thousand_events_are_imported_and_exported_unchanged(
    client: AsyncClient, raw_client: RawClient
) -> None:
    chat = SessionLogBuilder(1)
    for number in range(3334):
        chat.add_turn(f"{number} " + "said in a few thousand letters, é " * 50)
    text = echo_document(chat)
    assert len(text) > 16 * 1024 * 1024
    made = 0
    for at in range(0, len(text), 1_000_000):
        part = ImportParams(upload="large", data=text[at : at + 1_000_000], last=at + 1_000_000 >= len(text))
        answer = await client.import_(part)
        made = answer.session or 0
    pieces = []
    async with client.export(ExportParams(session=made)) as export:
        async for piece in export:
            pieces.append(piece)
            assert len(piece) <= MAX_CHUNK_CHARS
    assert export.result.events == 10_003
    exported = "".join(pieces)
    assert len(exported.encode()) == export.result.bytes
    assert json.loads(exported)["events"] == with_ids(text, [made])["events"]
    await client.close(CloseParams(session=made))


async def test_two_concurrent_uploads_are_kept_apart(raw_client: RawClient) -> None:
    texts = {}
    for name in ("left", "right"):
        chat = SessionLogBuilder(1)
        chat.add_turn(f"said on the {name}")
        texts[name] = echo_document(chat)
    half = len(texts["left"]) // 2
    await raw_client.send(
        *(
            request("session.import", {"upload": name, "data": piece, "last": last}, f"{name} {last}")
            for last in (False, True)
            for name, text in texts.items()
            for piece in (text[half:] if last else text[:half],)
        )
    )
    answers = {answer["id"]: answer["result"] for answer in [await raw_client.receive() for _ in range(4)]}
    assert answers["left False"] == {"received": half, "session": None, "agent": None, "warnings": []}
    for name in texts:
        session = answers[f"{name} True"]["session"]
        messages = (await call_strictly(raw_client, "session.history", {"session": session}))["messages"]
        assert messages[0]["content"] == f"said on the {name}"


async def test_parts_are_joined_in_the_order_in_which_they_were_sent(raw_client: RawClient) -> None:
    chat = SessionLogBuilder(1)
    chat.add_turn("one")
    text, sent = echo_document(chat), 0
    pieces = [text[at : at + 200] for at in range(0, len(text), 200)]
    for number, piece in enumerate(pieces):
        await raw_client.send(request("session.import", {"data": piece, "last": number == len(pieces) - 1}, number))
        sent += 1
        if sent % 4 == 0:  # the maximum number of pending parts
            for _ in range(4):
                assert "result" in await raw_client.receive()
    for _ in range(sent % 4):
        assert "result" in (last := await raw_client.receive())
    assert last["result"]["session"] is not None


async def test_too_many_uploads_and_too_many_parts_are_refused(raw_client: RawClient) -> None:
    for number in range(4):
        await call_strictly(raw_client, "session.import", {"upload": f"{number}", "data": "{", "last": False})
    error = (await raw_client.call("session.import", {"upload": "4", "data": "{", "last": False}))["error"]
    assert (error["data"]["kind"], "4 uploads" in error["message"]) == ("invalid_request", True)
    await raw_client.send(
        *(request("session.import", {"upload": "0", "data": "", "last": False}, n) for n in range(40))
    )
    answers = [await raw_client.receive() for _ in range(40)]
    refused = [answer["error"]["message"] for answer in answers if "error" in answer]
    assert refused
    assert {"4 parts of uploads are waiting on this connection"} <= set(refused)
    error = (await raw_client.call("session.import", {"upload": "0", "data": ""}))["error"]
    assert "cut off after character 0" in error["message"], "the upload was dropped"
    await call_strictly(raw_client, "session.import", {"upload": "4", "data": "{", "last": False})


async def test_an_upload_with_a_refused_part_is_discarded(raw_client: RawClient) -> None:
    chat = SessionLogBuilder(1)
    chat.add_turn("one")
    before, after = echo_document(chat).split('"content":"one"')
    parts = [before + '"content":"', *"abcdefgh"]
    await raw_client.send(
        *(request("session.import", {"data": part, "last": False}, number) for number, part in enumerate(parts))
    )
    answers = [await raw_client.receive() for _ in parts]
    assert {answer["error"]["data"]["kind"] for answer in answers if "error" in answer} == {"invalid_request"}
    error = (await raw_client.call("session.import", {"data": '"' + after}))["error"]
    assert error["message"] == "this cannot be imported: the document: at character 1: an object is missing"


async def test_an_upload_with_a_cancelled_part_is_discarded(raw_client: RawClient) -> None:
    chat = SessionLogBuilder(1)
    chat.add_turn("one")
    before, after = echo_document(chat).split('"content":"one"')
    parts = [before + '"content":"', "a", "b"]
    cancel = {"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": 1}}
    await raw_client.send(
        *(request("session.import", {"data": part, "last": False}, number) for number, part in enumerate(parts)), cancel
    )
    answers = {answer["id"]: answer for answer in [await raw_client.receive() for _ in parts]}
    assert answers[1]["error"]["data"]["kind"] == "cancelled"
    error = (await raw_client.call("session.import", {"data": '"' + after}))["error"]
    assert error["message"] == "this cannot be imported: the document: at character 1: an object is missing"


@pytest.mark.slow
async def test_a_document_over_the_limit_is_refused_and_discarded(raw_client: RawClient) -> None:
    part = "x" * (15 * 1024 * 1024)
    for number in range(MAX_DOCUMENT // len(part)):
        answer = await call_strictly(raw_client, "session.import", {"data": part, "last": False})
        assert answer["received"] == (number + 1) * len(part)
    left = MAX_DOCUMENT - answer["received"]
    await call_strictly(raw_client, "session.import", {"data": part[:left], "last": False})
    error = (await raw_client.call("session.import", {"data": "x", "last": False}))["error"]
    assert (error["data"]["kind"], error["message"]) == (
        "invalid_params",
        "data: the document is larger than 268,435,456 bytes",
    )
    assert (await call_strictly(raw_client, "session.import", {"data": "{", "last": False}))["received"] == 1


def unnamed_files(pid: int) -> Iterator[str]:
    """Yields the unnamed files that a process has open."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.endswith("(deleted)"):
            yield target


async def test_an_upload_ends_with_its_connection(daemon: WalrusdProcess, client: AsyncClient) -> None:
    before = await client.sessions(ListParams(limit=500))
    assert [*unnamed_files(daemon.pid)] == []
    async with open_raw_client(daemon.socket) as closing:
        await call_strictly(closing, "session.import", {"data": "x" * 1_000_000, "last": False})
        assert len([*unnamed_files(daemon.pid)]) == 1
        await closing.send_bytes(encode_frame(b'{"jsonrpc":"2.0","id":1,"method":"session.import"')[:30])
    while [*unnamed_files(daemon.pid)]:  # noqa: ASYNC110 - the daemon does not announce that it has closed the file
        await trio.sleep(0.005)
    assert await client.sessions(ListParams(limit=500)) == before


@pytest.mark.slow
async def test_a_slow_export_reader_delays_no_other_and_uses_little_memory(
    daemon: WalrusdProcess, raw_client: RawClient, client: AsyncClient
) -> None:
    chat = SessionLogBuilder(1)
    for number in range(1000):
        chat.add_turn(f"{number} " + "x" * 14_000)
    made = await import_in_parts(client, echo_document(chat))
    before = (await client.status()).rss_bytes
    async with open_raw_client(daemon.socket) as slow:
        await slow.send_request("session.export", {"session": made})
        await slow.receive()
        other = await new_session(raw_client)
        for _ in range(50):
            await client.send(SendParams(session=other, content="x" * 200_000))
        assert os.stat(daemon.socket.parent / "walrus.db-wal").st_size < 16 * 1024 * 1024
        assert (await client.status()).rss_bytes - before < 64 * 1024 * 1024
        pieces, answer = await slow.receive_chunks()
        assert answer["result"]["events"] == 3001
        assert len(pieces) > 100


async def import_in_parts(client: AsyncClient, text: str) -> int:
    for at in range(0, len(text), 4_000_000):
        made = await client.import_(ImportParams(data=text[at : at + 4_000_000], last=at + 4_000_000 >= len(text)))
    assert made.session is not None
    return made.session


@pytest.mark.parametrize(
    ("method", "params", "kind", "message"),
    [
        ("session.export", {"session": 999_999}, "session_not_found", "there is no session 999999"),
        ("session.export", {}, "invalid_params", "session"),
        ("session.export", {"session": 1, "format": "json"}, "invalid_params", "unknown param 'format'"),
        ("session.import", {}, "invalid_params", "data"),
        ("session.import", {"data": {}}, "invalid_params", "data: expected string, got object"),
        ("session.import", {"data": ""}, "invalid_params", "the document: it is cut off after character 0"),
        (
            "session.import",
            {"data": '{"walrus_export":7}'},
            "not_available_yet",
            "has format version 7; this walrusd knows 1",
        ),
        ("session.import", {"data": "{}", "upload": "x" * 2000}, "invalid_params", "upload"),
    ],
)
async def test_an_invalid_export_or_import_is_refused_with_a_hint(
    raw_client: RawClient, method: str, params: Json, kind: str, message: str
) -> None:
    error = (await raw_client.call(method, params))["error"]
    assert (error["data"]["kind"], message in error["message"], bool(error["data"]["hint"])) == (kind, True, True), (
        error
    )
