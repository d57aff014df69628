"""An export is sent in chunks of whole characters, and it completes or fails."""

import json
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import apsw
import pytest

from tests.fakes.export_documents import (
    LONG_OUTPUT,
    SessionLogBuilder,
    build_document,
    encode_document,
    export_to_text,
    import_text,
)
from tests.fakes.memory_log import MemoryLog
from tests.fakes.stores import commit, write
from walrus_protocol.events import SessionClosed
from walrus_protocol.methods.export_import import MAX_CHUNK_CHARS
from walrus_protocol.problems import Problem
from walrusd.export_import.exporter import OUTPUT_PAGE_BYTES, Utf8Chunker
from walrusd.runtime.streams.fanout import PAGE_ROWS
from walrusd.store.expiry import ExpireSession
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.output import ReleaseOutput, StoredOutput, read_output


@pytest.mark.parametrize("sign", ["a", "é", "€", "🦭"])
@pytest.mark.parametrize("lead", range(4))
async def test_chunks_end_with_whole_characters_and_respect_the_limit(sign: str, lead: int) -> None:
    chunks: list[str] = []

    async def send_chunk(chunk: str) -> None:  # noqa: ASYNC124 - the chunker awaits it
        chunks.append(chunk)

    chunker, text = Utf8Chunker(send_chunk), "x" * lead + sign * (2 * MAX_CHUNK_CHARS)
    for at in range(0, len(text.encode()), 100_003):
        await chunker.add(text.encode()[at : at + 100_003])
    assert await chunker.finish() == len(text.encode())
    assert "".join(chunks) == text
    assert max(map(len, chunks)) <= MAX_CHUNK_CHARS


async def test_an_output_of_many_pages_is_exported_whole() -> None:
    large = "é" * OUTPUT_PAGE_BYTES + "x" * OUTPUT_PAGE_BYTES + '"\\\n\x00'
    chat = SessionLogBuilder(1)
    chat.add_tool_turn("what is there?")
    document = build_document(chat, outputs=[large])
    document["events"][5]["ref"] = StoredOutput.from_body(large.encode()).ref
    log = MemoryLog()
    await import_text(log, encode_document(document))
    assert json.loads((await export_to_text(log, 1))[0])["outputs"] == document["outputs"]


P = ParamSpec("P")
T = TypeVar("T")


class DeletingLog(MemoryLog):
    """A store that deletes the session after two pages, or the outputs while they are read."""

    pages_left = 2
    deletes = "session"

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[EventRow]:
        self.pages_left -= 1
        if self.pages_left < 0 and self.deletes == "session":
            await commit(self, write(session=0, mutations=[ExpireSession(1)]))
            await self.sweep()
        return await super().events(session, since, limit, max_bytes)

    async def read(self, query: Callable[Concatenate[apsw.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if query == read_output and self.deletes == "session with its outputs":
            await commit(self, write(session=0, mutations=[ExpireSession(1)]))
        if query == read_output and self.deletes == "outputs" and args[2]:  # after the first piece
            await commit(self, write(session=0, mutations=[ReleaseOutput(1, str(args[1]))]))
        return await super().read(query, *args, **kwargs)


async def test_a_session_deleted_during_its_export_is_not_found() -> None:
    chat = SessionLogBuilder(1)
    for number in range(PAGE_ROWS):
        chat.add_turn(f"{number}")
    chat.append(SessionClosed())
    log = DeletingLog()
    await import_text(log, encode_document(build_document(chat)))
    with pytest.raises(Problem, match="there is no session 1") as caught:
        await export_to_text(log, 1)
    assert caught.value.kind == "session_not_found"


async def test_a_session_deleted_with_its_outputs_is_not_found_and_not_exported_without_them() -> None:
    chat = SessionLogBuilder(1)
    chat.add_tool_turn("what is there?")
    log = DeletingLog()
    log.deletes = "session with its outputs"
    await import_text(log, encode_document(build_document(chat, outputs=[LONG_OUTPUT])))
    with pytest.raises(Problem, match="there is no session 1"):
        await export_to_text(log, 1)


async def test_an_output_deleted_during_the_export_fails_the_export() -> None:
    large = LONG_OUTPUT * 1000
    chat = SessionLogBuilder(1)
    chat.add_tool_turn("what is there?")
    document = build_document(chat, outputs=[large])
    document["events"][5]["ref"] = StoredOutput.from_body(large.encode()).ref
    log = DeletingLog()
    log.deletes = "outputs"
    await import_text(log, encode_document(document))
    with pytest.raises(Problem, match="was deleted while it was exported"):
        await export_to_text(log, 1)
