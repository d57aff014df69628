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
from walrus_protocol.methods.export_import import ExportedOutput, ImportResult
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.export_import.document_format import EventPiece, InvalidDocument, OutputPiece, read_pieces
from walrusd.export_import.event_validation import encode_row
from walrusd.export_import.validation import ValidatedExport, validate_document
from walrusd.ports import Clock
from walrusd.runtime.errors import translate_storage_errors
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.session.session_state import SessionState
from walrusd.store.contract import IdempotencyKey, ImportedSession, Log, StoredOutput, Write
from walrusd.store.write_outcome import WriteOutcome

MAX_CONCURRENT_IMPORTS = 2
"""Documents that are worked on; the others wait: all share one interpreter with the loop."""
READ_BYTES = 64 * 1024
MAX_TRANSACTION_ROWS, MAX_TRANSACTION_BYTES = 256, 256 * 1024
"""Of a transaction, whichever comes first: a turn beside it waits no longer than for another turn."""
WORK_SLICE_S, YIELD_S = 0.001, 0.0001
"""A thread that never rests gives the interpreter to the loop every five milliseconds only."""

PartialWrite = partial[Write]
"""A write without its callbacks."""


class Importer:
    """`agent` raises Problem for one that is not there, `check_running` where walrusd stops.

    `see` is shown what is told of a session that has come, and its agent; it does not raise.
    """

    def __init__(
        self,
        log: Log,
        daemon_recorder: DaemonRecorder,
        find_agent: Callable[[str], Agent],
        check_not_stopping: Callable[[], None],
        *,
        clock: Clock,
        on_event: Callable[[str, SessionImported], None],
    ) -> None:
        self._log = log
        self._daemon_recorder = daemon_recorder
        self._find_agent = find_agent
        self._check_not_stopping = check_not_stopping
        self._clock = clock
        self._on_event = on_event
        self._concurrency_limit = trio.CapacityLimiter(MAX_CONCURRENT_IMPORTS)

    async def import_document(self, document: IO[bytes]) -> ImportResult:
        """The session that is there now.

        Raises Problem (invalid_params, not_available_yet, shutting_down, storage_full, storage_failed).
        """
        self._check_not_stopping()
        async with self._concurrency_limit:
            try:
                examined = await trio.to_thread.run_sync(
                    lambda: validate_document(_open_text(document), _make_gil_yield())
                )
            except InvalidDocument as bad:
                raise Problem(
                    "invalid_params",
                    f"this cannot be imported: {bad}",
                    "Nothing of it was taken. Was it cut off, or written by hand, or by a newer walrusd?",
                ) from bad
            with translate_storage_errors():
                session = await self._write_session(document, examined)
        agent = examined.session_state.agent
        return ImportResult(received=document.tell(), session=session, agent=agent, warnings=self._warnings(agent))

    def _warnings(self, agent: str) -> tuple[str, ...]:
        try:
            self._find_agent(agent)
        except Problem as unknown:
            return (f"{unknown.message}: until there is one, the session can only be read",)
        return ()

    async def _write_session(self, document: IO[bytes], validated: ValidatedExport) -> int:
        """Its new id. Raises StorageFailed; what was written by then is swept."""
        ids = {outline.id: self._log.next_session() for outline in validated.session_states}
        own = ids[validated.session_state.id]
        self._log.importing_sessions.update(ids.values())
        try:
            await self._submit_and_wait(partial(Write, session=own, pending_imports=[*ids.values()]))
            contents = _content_writes(document, validated, ids)
            while (content := await trio.to_thread.run_sync(next, contents, None)) is not None:
                await self._submit_and_wait(content)
            for beside in _span_and_key_writes(validated, own):
                await self._submit_and_wait(beside)
            await self._make_visible(validated, ids)
        finally:
            self._log.importing_sessions.difference_update(ids.values())
        return own

    async def _make_visible(self, validated: ValidatedExport, new_ids: Mapping[int, int]) -> None:
        """Have it be one session among others, which all who follow what happens learn with it: they have passed its
        events, or part of them, when these were nobody's.
        """
        now, outline = self._clock(), _with_new_ids(validated.session_state, new_ids)
        forks = [
            (new_ids[log.id], new_ids[log.parent.session], log.parent.seq)
            for log in validated.session_states
            if log.parent
        ]
        fact = SessionImported(ts=now, imported=outline.id, agent=outline.agent)
        await self._daemon_recorder.record(
            fact, imported=ImportedSession(session_state=outline, forks=forks, imported_at=now)
        )
        self._on_event(outline.agent, fact)

    async def _submit_and_wait(self, partial_write: PartialWrite) -> None:
        """Durable when this returns. The wait cannot be cancelled, and what comes after it can."""
        await trio.lowlevel.checkpoint_if_cancelled()
        outcome = WriteOutcome()
        self._log.submit(partial_write(committed=outcome.succeeded, failed=outcome.failed))
        await outcome.wait_shielded()


def _content_writes(
    document: IO[bytes], validated: ValidatedExport, new_ids: Mapping[int, int]
) -> Iterator[PartialWrite]:
    """What the document holds, read once more, in transactions. Blocks."""
    own = new_ids[validated.session_state.id]
    page = _RowBatch(0)
    for piece in read_pieces(_open_text(document)):
        match piece:
            case EventPiece(ancestor):
                session = own if ancestor is None else new_ids[validated.session_states[ancestor].id]
                if page.is_full or page.session != session:
                    yield from page.to_writes(searchable=page.session == own)
                    page = _RowBatch(session, piece.event_index + 1)
                page.add(encode_row(piece, new_ids))
            case OutputPiece(_, text):
                body = decode(text, ExportedOutput).text.encode()
                yield partial(Write, session=own, output=StoredOutput.from_body(body))
            case _:
                pass  # the rest is known by now
    yield from page.to_writes(searchable=page.session == own)


class _RowBatch:
    """Rows of one log that follow each other."""

    def __init__(self, session: int, first_seq: int = 0) -> None:
        self.session = session
        self._first_seq = first_seq
        self._bodies: list[bytes] = []
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self._bodies) >= MAX_TRANSACTION_ROWS or self._bytes >= MAX_TRANSACTION_BYTES

    def add(self, body: bytes) -> None:
        self._bodies.append(body)
        self._bytes += len(body)

    def to_writes(self, *, searchable: bool) -> Iterator[PartialWrite]:
        if self._bodies:
            yield partial(
                Write, session=self.session, bodies=self._bodies, first_seq=self._first_seq, searchable=searchable
            )


def _span_and_key_writes(validated: ValidatedExport, own: int) -> Iterator[PartialWrite]:
    """Where its turns stand, and the keys that they were sent with."""
    spans = ((turn, *span) for turn, span in enumerate(validated.turn_spans, 1))
    while some_spans := [*islice(spans, MAX_TRANSACTION_ROWS)]:
        yield partial(Write, session=own, turn_spans=some_spans)
    keys = (IdempotencyKey(key=key, digest=digest, turn=turn) for key, (turn, digest) in validated.keys.items())
    while some_keys := [*islice(keys, MAX_TRANSACTION_ROWS)]:
        yield partial(Write, session=own, idempotency_keys=some_keys)


def _with_new_ids(session_state: SessionState, new_ids: Mapping[int, int]) -> SessionState:
    parent = session_state.parent and replace(session_state.parent, session=new_ids[session_state.parent.session])
    return replace(session_state, id=new_ids[session_state.id], parent=parent)


def _open_text(document: IO[bytes]) -> Callable[[], str]:
    """Its text from the beginning on, a part at a time."""
    document.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()

    def read() -> str:
        text = ""
        while not text and (data := document.read(READ_BYTES)):
            text = decoder.decode(data)
        return text

    return read


def _make_gil_yield() -> Callable[[], None]:
    """To be called by a thread again and again: lets the loop have the interpreter, and ends where it is cancelled."""
    worked = time.perf_counter()

    def rest() -> None:
        nonlocal worked
        if time.perf_counter() - worked > WORK_SLICE_S:
            trio.from_thread.check_cancelled()
            time.sleep(YIELD_S)
            worked = time.perf_counter()

    return rest
