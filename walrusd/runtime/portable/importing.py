"""A session made of a document: examined whole before anything is written, and there as a whole or not at all.

Its events are written in small transactions while the session has no row yet, and the last one gives it that. What is
cut off before it is in nobody's list, and is swept.
"""

import codecs
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import IO

import trio
from msgspec.structs import replace

from walrus_protocol.events import SessionImported
from walrus_protocol.json import decode
from walrus_protocol.portable import Imported, KeptOutput
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.ports import Clock
from walrusd.runtime.facts import DaemonFacts
from walrusd.runtime.portable.document import Bad, Kept, Told, pieces
from walrusd.runtime.portable.event import row_of
from walrusd.runtime.portable.examine import Examined, examine
from walrusd.runtime.told import storage_told
from walrusd.session.outline import Outline
from walrusd.store.log import Log, Output, Seen, Sent, Write
from walrusd.store.settling import Settling

AT_ONCE = 2
"""Documents that are worked on; the others wait: all share one interpreter with the loop."""
READ = 64 * 1024
ROWS, BYTES = 256, 256 * 1024
"""Of a transaction, whichever comes first: a turn beside it waits no longer than for another turn."""
WORK_S, REST_S = 0.001, 0.0001
"""A thread that never rests gives the interpreter to the loop every five milliseconds only."""

Unsent = partial[Write]
"""A write without its callbacks."""


class Importing:
    """`agent` raises Problem for one that is not there, `check_running` where walrusd stops.

    `see` is shown what is told of a session that has come, and its agent; it does not raise.
    """

    def __init__(
        self,
        log: Log,
        facts: DaemonFacts,
        agent: Callable[[str], Agent],
        check_running: Callable[[], None],
        *,
        clock: Clock,
        see: Callable[[str, SessionImported], None],
    ) -> None:
        self._log = log
        self._facts = facts
        self._agent = agent
        self._check_running = check_running
        self._clock = clock
        self._see = see
        self._at_work = trio.CapacityLimiter(AT_ONCE)

    async def take(self, document: IO[bytes]) -> Imported:
        """The session that is there now.

        Raises Problem (invalid_params, not_available_yet, shutting_down, storage_full, storage_failed).
        """
        self._check_running()
        async with self._at_work:
            try:
                examined = await trio.to_thread.run_sync(lambda: examine(_text_of(document), _rests()))
            except Bad as bad:
                raise Problem(
                    "invalid_params",
                    f"this cannot be imported: {bad}",
                    "Nothing of it was taken. Was it cut off, or written by hand, or by a newer walrusd?",
                ) from bad
            with storage_told():
                session = await self._write(document, examined)
        agent = examined.session.agent
        return Imported(received=document.tell(), session=session, agent=agent, warnings=self._warnings(agent))

    def _warnings(self, agent: str) -> tuple[str, ...]:
        try:
            self._agent(agent)
        except Problem as unknown:
            return (f"{unknown.message}: until there is one, the session can only be read",)
        return ()

    async def _write(self, document: IO[bytes], examined: Examined) -> int:
        """Its new id. Raises StorageFailed; what was written by then is swept."""
        ids = {outline.id: self._log.next_session() for outline in examined.logs}
        own = ids[examined.session.id]
        self._log.importing.update(ids.values())
        try:
            await self._written(partial(Write, session=own, unseen=[*ids.values()]))
            contents = _contents(document, examined, ids)
            while (content := await trio.to_thread.run_sync(next, contents, None)) is not None:
                await self._written(content)
            for beside in _beside(examined, own):
                await self._written(beside)
            await self._tell(examined, ids)
        finally:
            self._log.importing.difference_update(ids.values())
        return own

    async def _tell(self, examined: Examined, ids: Mapping[int, int]) -> None:
        """Have it be one session among others, which all who follow what happens learn with it: they have passed its
        events, or part of them, when these were nobody's.
        """
        now, outline = self._clock(), _here(examined.session, ids)
        forks = [(ids[log.id], ids[log.parent.session], log.parent.seq) for log in examined.logs if log.parent]
        fact = SessionImported(ts=now, imported=outline.id, agent=outline.agent)
        await self._facts.record(fact, seen=Seen(outline=outline, forks=forks, at=now))
        self._see(outline.agent, fact)

    async def _written(self, unsent: Unsent) -> None:
        """Durable when this returns. The wait cannot be cancelled, and what comes after it can."""
        await trio.lowlevel.checkpoint_if_cancelled()
        outcome = Settling()
        self._log.submit(unsent(committed=outcome.answered, failed=outcome.failed))
        await outcome.wait_out()


def _contents(document: IO[bytes], examined: Examined, ids: Mapping[int, int]) -> Iterator[Unsent]:
    """What the document holds, read once more, in transactions. Blocks."""
    own = ids[examined.session.id]
    page = _Page(0)
    for piece in pieces(_text_of(document)):
        match piece:
            case Told(ancestor):
                session = own if ancestor is None else ids[examined.logs[ancestor].id]
                if page.full or page.session != session:
                    yield from page.unsent(searched=page.session == own)
                    page = _Page(session, piece.at + 1)
                page.add(row_of(piece, ids))
            case Kept(_, text):
                body = decode(text, KeptOutput).text.encode()
                yield partial(Write, session=own, output=Output.of(body))
            case _:
                pass  # the rest is known by now
    yield from page.unsent(searched=page.session == own)


class _Page:
    """Rows of one log that follow each other."""

    def __init__(self, session: int, first_seq: int = 0) -> None:
        self.session = session
        self._first_seq = first_seq
        self._bodies: list[bytes] = []
        self._bytes = 0

    @property
    def full(self) -> bool:
        return len(self._bodies) >= ROWS or self._bytes >= BYTES

    def add(self, body: bytes) -> None:
        self._bodies.append(body)
        self._bytes += len(body)

    def unsent(self, *, searched: bool) -> Iterator[Unsent]:
        if self._bodies:
            yield partial(
                Write, session=self.session, bodies=self._bodies, first_seq=self._first_seq, searched=searched
            )


def _beside(examined: Examined, own: int) -> Iterator[Unsent]:
    """Where its turns stand, and the keys that they were sent with."""
    spans = ((turn, *span) for turn, span in enumerate(examined.spans, 1))
    while some_spans := [*islice(spans, ROWS)]:
        yield partial(Write, session=own, spans=some_spans)
    keys = (Sent(key=key, digest=digest, turn=turn) for key, (turn, digest) in examined.keys.items())
    while some_keys := [*islice(keys, ROWS)]:
        yield partial(Write, session=own, sent=some_keys)


def _here(outline: Outline, ids: Mapping[int, int]) -> Outline:
    parent = outline.parent and replace(outline.parent, session=ids[outline.parent.session])
    return replace(outline, id=ids[outline.id], parent=parent)


def _text_of(document: IO[bytes]) -> Callable[[], str]:
    """Its text from the beginning on, a part at a time."""
    document.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()

    def read() -> str:
        text = ""
        while not text and (data := document.read(READ)):
            text = decoder.decode(data)
        return text

    return read


def _rests() -> Callable[[], None]:
    """To be called by a thread again and again: lets the loop have the interpreter, and ends where it is cancelled."""
    worked = time.perf_counter()

    def rest() -> None:
        nonlocal worked
        if time.perf_counter() - worked > WORK_S:
            trio.from_thread.check_cancelled()
            time.sleep(REST_S)
            worked = time.perf_counter()

    return rest
