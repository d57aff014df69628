"""A session as one document, written page by page as somebody reads it: neither it nor a look at the log is held."""

import codecs
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec
from msgspec import Struct

from walrus_protocol.events import Parent, SessionCreated
from walrus_protocol.json import Decoder
from walrus_protocol.methods.export_import import MAX_CHUNK_CHARS, ExportedKey, ExportResult
from walrus_protocol.problems import Problem
from walrusd.export_import import document_format
from walrusd.export_import.validation import make_session_header
from walrusd.ports import Clock
from walrusd.runtime.errors import decode_event, session_not_found, translate_storage_errors, unreadable_log
from walrusd.runtime.streams.fanout import PAGE_ROWS
from walrusd.session.session_state import SessionState
from walrusd.store.contract import EventRow, Log

OUTPUT_PAGE_BYTES = 256 * 1024
"""Bytes of an output that are read at once."""

SendChunk = Callable[[str], Awaitable[None]]
"""Takes the next piece of the document, of at most MOST_CHUNK characters, when there is room for it."""


class _EventReferences(Struct, frozen=True):
    """The fields of an event that lead to what is kept beside the log."""

    key: str | None = None
    ref: str | None = None


_reference_decoder = Decoder(_EventReferences)
_USER_MESSAGE_PREFIX = b'{"type":"user_message",'
_TOOL_RESULT_PREFIX = b'{"type":"tool_result",'


async def export_session(
    log: Log,
    session: int,
    send_chunk: SendChunk,
    *,
    page_slot: Callable[[], AbstractAsyncContextManager[object]],
    clock: Clock,
    version: str,
) -> ExportResult:
    """Say the document of a session, up to before the turn that is under way. `page` is entered while one is written.

    Raises Problem (session_not_found, storage_failed).
    """
    with translate_storage_errors(session=session):
        outline = await log.session_state(session)
        if outline is None:
            raise session_not_found(session)
        exporting = _Exporter(log, session, Utf8Chunker(send_chunk), page_slot)
        return await exporting.write_document(outline, clock(), version)


class _Exporter:
    def __init__(
        self,
        log: Log,
        session: int,
        chunker: "Utf8Chunker",
        page_slot: Callable[[], AbstractAsyncContextManager[object]],
    ) -> None:
        self._log = log
        self._session = session
        self._chunker = chunker
        self._page_slot = page_slot
        self._event_count = 0
        self._keys: list[str] = []
        self._refs: dict[str, int] = {}
        """Each with the session that was told of it first, in that order."""

    async def write_document(self, session_state: SessionState, now: float, version: str) -> ExportResult:
        turn = session_state.turn
        if turn is not None:
            session_state = msgspec.structs.replace(session_state, last_seq=turn.first_seq - 1)
        ancestors = await self._read_ancestors(session_state.parent)
        async with self._page_slot():
            told = make_session_header(session_state, turn.number if turn else None)
            await self._chunker.add(document_format.encode_head(told, now, version))
        for number, ancestor in enumerate(ancestors):
            await self._chunker.add(document_format.begin_ancestor(ancestor.session, ancestor.seq, first=number == 0))
            await self._write_log(ancestor.session, ancestor.seq)
            await self._chunker.add(document_format.ANCESTOR_END)
        await self._chunker.add(document_format.EVENTS_START)
        await self._write_log(self._session, session_state.last_seq)
        await self._chunker.add(document_format.OUTPUTS_START)
        await self._write_outputs()
        await self._chunker.add(document_format.KEYS_START)
        await self._write_keys()
        await self._chunker.add(document_format.DOCUMENT_END)
        return ExportResult(events=self._event_count, bytes=await self._chunker.finish())

    async def _read_ancestors(self, parent: Parent | None) -> list[Parent]:
        """The points that the session goes on from, the oldest first."""
        points: list[Parent] = []
        while parent is not None:
            points.append(parent)
            created = decode_event(parent.session, (await self._read_rows(parent.session, 0, 1))[0])
            assert isinstance(created, SessionCreated), "a log begins with its creation"
            parent = created.parent
        return points[::-1]

    async def _write_log(self, session: int, upto: int) -> None:
        since = 0
        while since < upto:
            async with self._page_slot():
                rows = await self._read_rows(session, since, min(PAGE_ROWS, upto - since))
                for row in rows:
                    self._collect_references(session, row)
                await self._chunker.add(document_format.encode_events(rows))
            since = rows[-1].seq
            self._event_count += len(rows)

    async def _read_rows(self, session: int, since: int, limit: int) -> list[EventRow]:
        """Raises Problem session_not_found where the session was thrown away meanwhile."""
        rows = await self._log.events(session, since, limit)
        if not rows:
            if await self._log.session_state(self._session) is None:
                raise session_not_found(self._session)
            raise unreadable_log(session, since + 1, "it ends there")
        return rows

    def _collect_references(self, session: int, row: EventRow) -> None:
        if row.body.startswith((_USER_MESSAGE_PREFIX, _TOOL_RESULT_PREFIX)):
            names = _reference_decoder.decode(row.body)
            if names.key is not None and session == self._session:
                self._keys.append(names.key)
            if names.ref is not None:
                self._refs.setdefault(names.ref, session)

    async def _write_outputs(self) -> None:
        """Those that are there; what was thrown away for want of room is left out."""
        first = True
        for ref, session in self._refs.items():
            # Of a session that was imported, the outputs of those that it goes on from are its own.
            for owner in dict.fromkeys((session, self._session)):
                if await self._write_output(owner, ref, first=first):
                    first = False
                    break

    async def _write_output(self, owner: int, ref: str, *, first: bool) -> bool:
        decoder = codecs.getincrementaldecoder("utf-8")()
        offset, more = 0, True
        while more:
            async with self._page_slot():
                page = await self._log.output(owner, ref, offset, OUTPUT_PAGE_BYTES)
                if page is None and offset:
                    raise Problem(
                        "tool_not_found",
                        f"output {ref} was thrown away while it was exported",
                        "Export the session again: it is left out then.",
                    )
                if page is None and await self._log.session_state(self._session) is None:
                    raise session_not_found(self._session)
                if page is None:
                    return False
                more = len(page) == OUTPUT_PAGE_BYTES
                begin = document_format.begin_output(ref, first=first) if offset == 0 else b""
                offset += len(page)
                await self._chunker.add(begin + document_format.continue_output(decoder.decode(page, final=not more)))
        await self._chunker.add(document_format.OUTPUT_END)
        return True

    async def _write_keys(self) -> None:
        for number, key in enumerate(self._keys):
            sent = await self._log.idempotency_key(self._session, key)
            if sent is None:
                raise session_not_found(self._session)
            async with self._page_slot():
                await self._chunker.add(
                    document_format.encode_key(ExportedKey(key, sent.digest.hex()), first=number == 0)
                )


class Utf8Chunker:
    """Bytes of the document as they come, and as they are said: in pieces that end with a whole character."""

    def __init__(self, send_chunk: SendChunk) -> None:
        self._send_chunk = send_chunk
        self._buffer = bytearray()
        self._total_bytes = 0

    async def add(self, data: bytes) -> None:
        self._total_bytes += len(data)
        self._buffer += data
        while len(self._buffer) >= MAX_CHUNK_CHARS:
            end = MAX_CHUNK_CHARS - 1
            while self._buffer[end] & 0xC0 == 0x80:
                end -= 1
            piece = self._buffer[:end].decode()
            del self._buffer[:end]
            await self._send_chunk(piece)

    async def finish(self) -> int:
        """The bytes of the whole."""
        await self._send_chunk(self._buffer.decode())
        return self._total_bytes
