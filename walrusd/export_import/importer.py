"""Imports a session from a document: validates the whole document, then creates the session.

The events are written in small transactions while the session has no row yet; the last transaction adds the row. The
rows of an import that is interrupted before that are never listed, and `sweep` deletes them.
"""

import codecs
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
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
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Log, Write
from walrusd.store.tables.idempotency_key import IdempotencyKey, PutKey
from walrusd.store.tables.output import AddOutput, StoredOutput
from walrusd.store.tables.remains import AddUnlisted
from walrusd.store.tables.session import ListImported
from walrusd.store.tables.turn import AddTurn
from walrusd.store.writer_task import WriteOutcome

MAX_CONCURRENT_IMPORTS = 2
"""Maximum imports at work; the others wait. All share one GIL with the loop."""
READ_BYTES = 64 * 1024
"""Bytes of the document that are read at once."""
MAX_TRANSACTION_ROWS, MAX_TRANSACTION_BYTES = 256, 256 * 1024
"""Maximum rows and bytes of a transaction: a concurrent turn waits as long as for another turn."""
WORK_SLICE_S, YIELD_S = 0.001, 0.0001
"""Seconds that a thread works and then sleeps.

Without a sleep it releases the GIL to the event loop only every 5 ms.
"""

PartialWrite = partial[Write]
"""A write without its callbacks."""


class Importer:
    """Imports documents.

    `find_agent` raises Problem if there is no such agent, `check_not_stopping` if walrusd is shutting down.
    `on_event` gets the agent and the event of each imported session; it must not raise.
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
        """Creates the session of the document and returns the result for the client.

        Raises Problem (invalid_params, not_available_yet, shutting_down, storage_full, storage_failed).
        """
        self._check_not_stopping()
        async with self._concurrency_limit:
            try:
                validated = await trio.to_thread.run_sync(
                    lambda: validate_document(_open_text(document), _make_gil_yield())
                )
            except InvalidDocument as invalid:
                raise Problem(
                    "invalid_params",
                    f"this cannot be imported: {invalid}",
                    "Nothing was imported. Check whether the document was cut off, edited, or made by a newer walrusd.",
                ) from invalid
            session = await self._write_session(document, validated)
        agent = validated.session_state.agent
        return ImportResult(received=document.tell(), session=session, agent=agent, warnings=self._warnings(agent))

    def _warnings(self, agent: str) -> tuple[str, ...]:
        try:
            self._find_agent(agent)
        except Problem as unknown:
            return (f"{unknown.message}: the session can only be read until this agent is defined",)
        return ()

    async def _write_session(self, document: IO[bytes], validated: ValidatedExport) -> int:
        """Writes the session and returns its new id. Raises StorageFailed.

        `sweep` deletes what a failed import has written.
        """
        ids = {state.id: self._log.next_session() for state in validated.session_states}
        own = ids[validated.session_state.id]
        self._log.importing_sessions.update(ids.values())
        try:
            await self._submit_and_wait(partial(Write, session=own, mutations=[*map(AddUnlisted, ids.values())]))
            content_writes = _content_writes(document, validated, ids)
            while (partial_write := await trio.to_thread.run_sync(next, content_writes, None)) is not None:
                await self._submit_and_wait(partial_write)
            for span_or_key_write in _span_and_key_writes(validated, own):
                await self._submit_and_wait(span_or_key_write)
            await self._make_visible(validated, ids)
        finally:
            self._log.importing_sessions.difference_update(ids.values())
        return own

    async def _make_visible(self, validated: ValidatedExport, new_ids: Mapping[int, int]) -> None:
        """Lists the session and records `session_imported` in the same transaction.

        Subscribers learn of the session by that event: they have passed its other events before these were listed.
        """
        now, state = self._clock(), _with_new_ids(validated.session_state, new_ids)
        forks = [
            (new_ids[log.id], new_ids[log.parent.session], log.parent.seq)
            for log in validated.session_states
            if log.parent
        ]
        event = SessionImported(ts=now, imported=state.id, agent=state.agent)
        await self._daemon_recorder.record(
            event, mutations=[ListImported(session_state=state, forks=forks, imported_at=now)]
        )
        self._on_event(state.agent, event)

    async def _submit_and_wait(self, partial_write: PartialWrite) -> None:
        """Submits a write and returns when it is durable. Cancellation takes effect only between two writes."""
        await trio.lowlevel.checkpoint_if_cancelled()
        outcome = WriteOutcome()
        self._log.submit(partial_write(committed=outcome.succeeded, failed=outcome.failed))
        await outcome.wait_shielded()


def _content_writes(
    document: IO[bytes], validated: ValidatedExport, new_ids: Mapping[int, int]
) -> Iterator[PartialWrite]:
    """Reads the document again and yields its events and outputs as transactions. Blocks."""
    own = new_ids[validated.session_state.id]
    rows: list[bytes] = []
    session, first_seq = own, 1
    for piece in read_pieces(_open_text(document)):
        match piece:
            case EventPiece(ancestor):
                log = own if ancestor is None else new_ids[validated.session_states[ancestor].id]
                is_full = len(rows) >= MAX_TRANSACTION_ROWS or sum(map(len, rows)) >= MAX_TRANSACTION_BYTES
                if is_full or log != session:
                    yield from _row_writes(session, first_seq, rows, searchable=session == own)
                    session, first_seq, rows = log, piece.event_index + 1, []
                rows.append(encode_row(piece, new_ids))
            case OutputPiece(_, text):
                body = decode(text, ExportedOutput).text.encode()
                yield partial(Write, session=own, mutations=[AddOutput(StoredOutput.from_body(body))])
            case _:
                pass  # the validation has collected the rest
    yield from _row_writes(session, first_seq, rows, searchable=session == own)


def _row_writes(session: int, first_seq: int, rows: list[bytes], *, searchable: bool) -> Iterator[PartialWrite]:
    """Yields consecutive rows of one log as a transaction, if there are any."""
    if rows:
        yield partial(Write, session=session, bodies=rows, first_seq=first_seq, searchable=searchable)


def _span_and_key_writes(validated: ValidatedExport, own: int) -> Iterator[PartialWrite]:
    """Yields the turn spans and the idempotency keys of the session as transactions."""
    turns = (AddTurn(turn, *span) for turn, span in enumerate(validated.turn_spans, 1))
    keys = (PutKey(IdempotencyKey(key=key, digest=sha, turn=turn)) for key, (turn, sha) in validated.keys.items())
    mutations = chain(turns, keys)
    while some := [*islice(mutations, MAX_TRANSACTION_ROWS)]:
        yield partial(Write, session=own, mutations=some)


def _with_new_ids(session_state: SessionState, new_ids: Mapping[int, int]) -> SessionState:
    parent = session_state.parent and replace(session_state.parent, session=new_ids[session_state.parent.session])
    return replace(session_state, id=new_ids[session_state.id], parent=parent)


def _open_text(document: IO[bytes]) -> Callable[[], str]:
    """Returns a function that reads the document's text from its beginning, and "" at its end."""
    document.seek(0)
    return partial(codecs.getreader("utf-8")(document).read, READ_BYTES)


def _make_gil_yield() -> Callable[[], None]:
    """Returns a function that a worker thread calls often to yield the GIL to the loop.

    The function raises if the import is cancelled.
    """
    slice_started = time.perf_counter()

    def yield_gil() -> None:
        nonlocal slice_started
        if time.perf_counter() - slice_started > WORK_SLICE_S:
            trio.from_thread.check_cancelled()
            time.sleep(YIELD_S)
            slice_started = time.perf_counter()

    return yield_gil
