"""A session as one document, written page by page as somebody reads it: neither it nor a look at the log is held."""

import codecs
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec
from msgspec import Struct

from walrus_protocol.events import Parent, SessionCreated
from walrus_protocol.json import Decoder
from walrus_protocol.portable import MOST_CHUNK, Exported, UsedKey
from walrus_protocol.problems import Problem
from walrusd.ports import Clock
from walrusd.runtime.bus import PAGE
from walrusd.runtime.portable import document
from walrusd.runtime.portable.examine import described
from walrusd.runtime.told import readable, session_not_found, storage_told, unreadable
from walrusd.session.outline import Outline
from walrusd.store.log import Log, Stored

OUTPUT_PAGE = 256 * 1024
"""Bytes of an output that are read at once."""

Say = Callable[[str], Awaitable[None]]
"""Takes the next piece of the document, of at most MOST_CHUNK characters, when there is room for it."""


class _Names(Struct, frozen=True):
    """The fields of an event that lead to what is kept beside the log."""

    key: str | None = None
    ref: str | None = None


_names = Decoder(_Names)
_USER = b'{"type":"user_message",'
_RESULT = b'{"type":"tool_result",'


async def export(
    log: Log,
    session: int,
    say: Say,
    *,
    page: Callable[[], AbstractAsyncContextManager[object]],
    clock: Clock,
    version: str,
) -> Exported:
    """Say the document of a session, up to before the turn that is under way. `page` is entered while one is written.

    Raises Problem (session_not_found, storage_failed).
    """
    with storage_told(session=session):
        outline = await log.outline(session)
        if outline is None:
            raise session_not_found(session)
        exporting = _Exporting(log, session, Pieces(say), page)
        return await exporting.whole(outline, clock(), version)


class _Exporting:
    def __init__(
        self, log: Log, session: int, said: "Pieces", page: Callable[[], AbstractAsyncContextManager[object]]
    ) -> None:
        self._log = log
        self._session = session
        self._said = said
        self._page = page
        self._events = 0
        self._keys: list[str] = []
        self._refs: dict[str, int] = {}
        """Each with the session that was told of it first, in that order."""

    async def whole(self, outline: Outline, now: float, version: str) -> Exported:
        turn = outline.turn
        if turn is not None:
            outline = msgspec.structs.replace(outline, last_seq=turn.first_seq - 1)
        ancestors = await self._ancestors(outline.parent)
        async with self._page():
            told = described(outline, turn.number if turn else None)
            await self._said.add(document.head(told, now, version))
        for number, ancestor in enumerate(ancestors):
            await self._said.add(document.ancestor(ancestor.session, ancestor.seq, first=number == 0))
            await self._log_of(ancestor.session, ancestor.seq)
            await self._said.add(document.ANCESTOR_ENDS)
        await self._said.add(document.EVENTS)
        await self._log_of(self._session, outline.last_seq)
        await self._said.add(document.OUTPUTS)
        await self._outputs()
        await self._said.add(document.KEYS)
        await self._used_keys()
        await self._said.add(document.END)
        return Exported(events=self._events, bytes=await self._said.end())

    async def _ancestors(self, parent: Parent | None) -> list[Parent]:
        """The points that the session goes on from, the oldest first."""
        points: list[Parent] = []
        while parent is not None:
            points.append(parent)
            created = readable(parent.session, (await self._rows(parent.session, 0, 1))[0])
            assert isinstance(created, SessionCreated), "a log begins with its creation"
            parent = created.parent
        return points[::-1]

    async def _log_of(self, session: int, upto: int) -> None:
        since = 0
        while since < upto:
            async with self._page():
                rows = await self._rows(session, since, min(PAGE, upto - since))
                for row in rows:
                    self._note(session, row)
                await self._said.add(document.events(rows))
            since = rows[-1].seq
            self._events += len(rows)

    async def _rows(self, session: int, since: int, limit: int) -> list[Stored]:
        """Raises Problem session_not_found where the session was thrown away meanwhile."""
        rows = await self._log.events(session, since, limit)
        if not rows:
            if await self._log.outline(self._session) is None:
                raise session_not_found(self._session)
            raise unreadable(session, since + 1, "it ends there")
        return rows

    def _note(self, session: int, row: Stored) -> None:
        if row.body.startswith((_USER, _RESULT)):
            names = _names.decode(row.body)
            if names.key is not None and session == self._session:
                self._keys.append(names.key)
            if names.ref is not None:
                self._refs.setdefault(names.ref, session)

    async def _outputs(self) -> None:
        """Those that are there; what was thrown away for want of room is left out."""
        first = True
        for ref, session in self._refs.items():
            # Of a session that was imported, the outputs of those that it goes on from are its own.
            for owner in dict.fromkeys((session, self._session)):
                if await self._output(owner, ref, first=first):
                    first = False
                    break

    async def _output(self, owner: int, ref: str, *, first: bool) -> bool:
        decoder = codecs.getincrementaldecoder("utf-8")()
        offset, more = 0, True
        while more:
            async with self._page():
                page = await self._log.output(owner, ref, offset, OUTPUT_PAGE)
                if page is None and offset:
                    raise Problem(
                        "tool_not_found",
                        f"output {ref} was thrown away while it was exported",
                        "Export the session again: it is left out then.",
                    )
                if page is None and await self._log.outline(self._session) is None:
                    raise session_not_found(self._session)
                if page is None:
                    return False
                more = len(page) == OUTPUT_PAGE
                begin = document.output_begins(ref, first=first) if offset == 0 else b""
                offset += len(page)
                await self._said.add(begin + document.output_goes_on(decoder.decode(page, final=not more)))
        await self._said.add(document.OUTPUT_ENDS)
        return True

    async def _used_keys(self) -> None:
        for number, key in enumerate(self._keys):
            sent = await self._log.sent(self._session, key)
            if sent is None:
                raise session_not_found(self._session)
            async with self._page():
                await self._said.add(document.key(UsedKey(key, sent.digest.hex()), first=number == 0))


class Pieces:
    """Bytes of the document as they come, and as they are said: in pieces that end with a whole character."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._waiting = bytearray()
        self._bytes = 0

    async def add(self, data: bytes) -> None:
        self._bytes += len(data)
        self._waiting += data
        while len(self._waiting) >= MOST_CHUNK:
            end = MOST_CHUNK - 1
            while self._waiting[end] & 0xC0 == 0x80:
                end -= 1
            piece = self._waiting[:end].decode()
            del self._waiting[:end]
            await self._say(piece)

    async def end(self) -> int:
        """The bytes of the whole."""
        await self._say(self._waiting.decode())
        return self._bytes
