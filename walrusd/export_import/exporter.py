"""Exports a session as one document, page by page as the client reads it.

Neither the whole document nor a database snapshot is held meanwhile.
"""

import codecs
from collections.abc import Awaitable, Callable

import msgspec
import trio
from msgspec import Struct

from walrus_protocol.events import Parent, SessionCreated
from walrus_protocol.json import Decoder
from walrus_protocol.methods.export_import import MAX_CHUNK_CHARS, ExportedKey, ExportResult
from walrus_protocol.problems import Problem
from walrusd.export_import import document_format
from walrusd.export_import.validation import make_session_header
from walrusd.runtime.errors import decode_event, session_not_found, unreadable_log
from walrusd.runtime.streams.fanout import PAGE_ROWS
from walrusd.store.contract import Log
from walrusd.store.tables.event import EventRow
from walrusd.store.tables.idempotency_key import read_key
from walrusd.store.tables.output import read_output

OUTPUT_PAGE_BYTES = 256 * 1024
"""Bytes of an output that are read per page."""

SendChunk = Callable[[str], Awaitable[None]]
"""Sends the next chunk of the document, at most MAX_CHUNK_CHARS characters. Waits for back-pressure."""


class _EventReferences(Struct, frozen=True):
    """The fields of an event that refer to rows beside the log: idempotency keys and outputs."""

    key: str | None = None
    ref: str | None = None


_reference_decoder = Decoder(_EventReferences)
_USER_MESSAGE_PREFIX = b'{"type":"user_message",'
_TOOL_RESULT_PREFIX = b'{"type":"tool_result",'


class Exporter:
    """Exports one session, once."""

    def __init__(self, log: Log, session: int, send_chunk: SendChunk, page_lock: trio.Lock) -> None:
        """`page_lock` is held while a page is read and written."""
        self._log = log
        self._session = session
        self._chunker = Utf8Chunker(send_chunk)
        self._page_lock = page_lock
        self._event_count = 0
        self._keys: list[str] = []
        self._refs: dict[str, int] = {}
        """Each output's ref, with the first session whose log refers to it, in the order of the references."""

    async def write_document(self, now: float, version: str) -> ExportResult:
        """Sends the document, without an open turn. Raises Problem (session_not_found, storage_failed)."""
        session_state = await self._log.session_state(self._session)
        if session_state is None:
            raise session_not_found(self._session)
        turn = session_state.turn
        if turn is not None:
            session_state = msgspec.structs.replace(session_state, last_seq=turn.first_seq - 1)
        ancestors = await self._read_ancestors(session_state.parent)
        async with self._page_lock:
            header = make_session_header(session_state, turn.number if turn else None)
            await self._chunker.add(document_format.encode_head(header, now, version))
        for index, ancestor in enumerate(ancestors):
            await self._chunker.add(document_format.begin_ancestor(ancestor.session, ancestor.seq, first=index == 0))
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
        """Returns the fork points of the session and of its ancestors, the oldest first."""
        fork_points: list[Parent] = []
        while parent is not None:
            fork_points.append(parent)
            created = decode_event(parent.session, (await self._read_rows(parent.session, 0, 1))[0])
            assert isinstance(created, SessionCreated), "a log begins with session_created"
            parent = created.parent
        return fork_points[::-1]

    async def _write_log(self, session: int, upto: int) -> None:
        since = 0
        while since < upto:
            async with self._page_lock:
                rows = await self._read_rows(session, since, min(PAGE_ROWS, upto - since))
                for row in rows:
                    self._collect_references(session, row)
                await self._chunker.add(document_format.encode_events(rows))
            since = rows[-1].seq
            self._event_count += len(rows)

    async def _read_rows(self, session: int, since: int, limit: int) -> list[EventRow]:
        """Returns a page of rows. Raises Problem session_not_found if the session was deleted meanwhile."""
        rows = await self._log.events(session, since, limit)
        if not rows:
            if await self._log.session_state(self._session) is None:
                raise session_not_found(self._session)
            raise unreadable_log(session, since + 1, "the log ends there")
        return rows

    def _collect_references(self, session: int, row: EventRow) -> None:
        if row.body.startswith((_USER_MESSAGE_PREFIX, _TOOL_RESULT_PREFIX)):
            references = _reference_decoder.decode(row.body)
            if references.key is not None and session == self._session:
                self._keys.append(references.key)
            if references.ref is not None:
                self._refs.setdefault(references.ref, session)

    async def _write_outputs(self) -> None:
        """Writes the stored outputs; those that retention has deleted are omitted."""
        first = True
        for ref, session in self._refs.items():
            # An imported session owns the outputs of its ancestors, too.
            for owner in dict.fromkeys((session, self._session)):
                if await self._write_output(owner, ref, first=first):
                    first = False
                    break

    async def _write_output(self, owner: int, ref: str, *, first: bool) -> bool:
        decoder = codecs.getincrementaldecoder("utf-8")()
        offset, more = 0, True
        while more:
            async with self._page_lock:
                page = await self._log.read(read_output, owner, ref, offset, OUTPUT_PAGE_BYTES)
                if page is None and offset:
                    raise Problem(
                        "tool_not_found",
                        f"output {ref} was deleted while it was exported",
                        "Export the session again; the output is then left out.",
                    )
                if page is None and await self._log.session_state(self._session) is None:
                    raise session_not_found(self._session)
                if page is None:
                    return False
                more = len(page) == OUTPUT_PAGE_BYTES
                prefix = document_format.begin_output(ref, first=first) if offset == 0 else b""
                offset += len(page)
                await self._chunker.add(prefix + document_format.continue_output(decoder.decode(page, final=not more)))
        await self._chunker.add(document_format.OUTPUT_END)
        return True

    async def _write_keys(self) -> None:
        for index, key in enumerate(self._keys):
            used_key = await self._log.read(read_key, self._session, key)
            if used_key is None:
                raise session_not_found(self._session)
            async with self._page_lock:
                await self._chunker.add(
                    document_format.encode_key(ExportedKey(key, used_key.digest.hex()), first=index == 0)
                )


class Utf8Chunker:
    """Splits the bytes of the document into chunks that end with a whole character."""

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
            chunk = self._buffer[:end].decode()
            del self._buffer[:end]
            await self._send_chunk(chunk)

    async def finish(self) -> int:
        """Sends the rest and returns the bytes of the whole document."""
        await self._send_chunk(self._buffer.decode())
        return self._total_bytes
