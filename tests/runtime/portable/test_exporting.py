"""What is said of a session while it is exported: in pieces of whole characters, and to the end or not at all."""

import json

import pytest

from tests.fakes.documents import LONG, Chat, as_text, document, exported, imported
from tests.fakes.stores import commit, write
from walrus_protocol.events import SessionClosed
from walrus_protocol.portable import MOST_CHUNK
from walrus_protocol.problems import Problem
from walrusd.runtime.bus import PAGE
from walrusd.runtime.portable.exporting import OUTPUT_PAGE, Pieces
from walrusd.store.log import Output, Stored
from walrusd.store.memory import MemoryLog


@pytest.mark.parametrize("sign", ["a", "é", "€", "🦭"])
@pytest.mark.parametrize("lead", range(4))
async def test_pieces_end_with_whole_characters_and_are_no_longer_than_was_said(sign: str, lead: int) -> None:
    said: list[str] = []

    async def say(piece: str) -> None:  # noqa: ASYNC124 - what it is handed to awaits it
        said.append(piece)

    pieces, text = Pieces(say), "x" * lead + sign * (2 * MOST_CHUNK)
    for at in range(0, len(text.encode()), 100_003):
        await pieces.add(text.encode()[at : at + 100_003])
    assert await pieces.end() == len(text.encode())
    assert "".join(said) == text
    assert max(map(len, said)) <= MOST_CHUNK


async def test_an_output_of_many_pages_is_exported_whole() -> None:
    large = "é" * OUTPUT_PAGE + "x" * OUTPUT_PAGE + '"\\\n\x00'
    chat = Chat(1)
    chat.looks("what is there?")
    told = document(chat, outputs=[large])
    told["events"][5]["ref"] = Output.of(large.encode()).ref
    log = MemoryLog()
    await imported(log, as_text(told))
    assert json.loads((await exported(log, 1))[0])["outputs"] == told["outputs"]


class Forgetful(MemoryLog):
    """Throws the session away, or the outputs, when it has given so many pages."""

    pages = 2
    loses = "session"

    async def events(self, session: int, since: int, limit: int, max_bytes: int = 1024 * 1024) -> list[Stored]:
        self.pages -= 1
        if self.pages < 0 and self.loses == "session":
            await commit(self, write(session=0, expired=[1]))
            await self.sweep()
        return await super().events(session, since, limit, max_bytes)

    async def output(self, session: int, ref: str, offset: int, limit: int) -> bytes | None:
        if self.loses == "session with its outputs":
            await commit(self, write(session=0, expired=[1]))
        return None if offset and self.loses == "outputs" else await super().output(session, ref, offset, limit)


async def test_a_session_that_is_thrown_away_meanwhile_is_not_found() -> None:
    chat = Chat(1)
    for number in range(PAGE):
        chat.turn(f"{number}")
    chat.hear(SessionClosed())
    log = Forgetful()
    await imported(log, as_text(document(chat)))
    with pytest.raises(Problem, match="there is no session 1") as caught:
        await exported(log, 1)
    assert caught.value.kind == "session_not_found"


async def test_a_session_that_is_thrown_away_with_its_outputs_is_not_found_and_not_told_without_them() -> None:
    chat = Chat(1)
    chat.looks("what is there?")
    log = Forgetful()
    log.loses = "session with its outputs"
    await imported(log, as_text(document(chat, outputs=[LONG])))
    with pytest.raises(Problem, match="there is no session 1"):
        await exported(log, 1)


async def test_an_output_that_is_thrown_away_meanwhile_spoils_no_document() -> None:
    large = LONG * 1000
    chat = Chat(1)
    chat.looks("what is there?")
    told = document(chat, outputs=[large])
    told["events"][5]["ref"] = Output.of(large.encode()).ref
    log = Forgetful()
    log.loses = "outputs"
    await imported(log, as_text(told))
    with pytest.raises(Problem, match="was thrown away while it was exported"):
        await exported(log, 1)
