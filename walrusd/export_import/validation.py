"""Validates a document before its import: its logs must be such as walrusd itself writes.

Every event is applied to the session state as a recorded event is, and what it states about the log must be true.
Otherwise a history that no provider accepts, or a number too large to count, would stay in the store for ever. Pure.
"""

from array import array
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TypeVar

import msgspec
from msgspec import Struct

from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    Rewound,
    ToolCallsComplete,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrus_protocol.json import BadJson, decode
from walrus_protocol.methods.export_import import FORMAT_VERSION, ExportedKey, ExportedOutput, SessionHeader
from walrus_protocol.problems import Problem
from walrusd.dispatch.bounded_output import MAX_STORED_BYTES
from walrusd.export_import.document_format import (
    AncestorField,
    EventPiece,
    HeaderField,
    InvalidDocument,
    KeyPiece,
    OutputPiece,
    read_pieces,
)
from walrusd.export_import.event_validation import MAX_NUMBER, validate_event
from walrusd.session.session_state import SessionState, apply_event, fill_derived_fields
from walrusd.session.transitions import InvalidTransition
from walrusd.store.tables.output import StoredOutput

T = TypeVar("T")


class ValidatedExport(Struct, frozen=True, kw_only=True):
    """The content of a valid document, without events and outputs."""

    session_states: tuple[SessionState, ...]
    """The states of the ancestors, the oldest first, and the session's own as the last."""
    turn_spans: tuple[tuple[int, int], ...]
    """The first and the last seq of each turn, in order."""
    keys: Mapping[str, tuple[int, bytes]]
    """Each idempotency key with its turn and the digest of the sent content."""

    @property
    def session_state(self) -> SessionState:
        return self.session_states[-1]


class _LogReplay:
    """Replays one log, event by event."""

    def __init__(self) -> None:
        self.session_state = SessionState(id=0)
        self.message_counts = array("q")
        """Number of messages after each event, or -1 if a conversation cannot continue from it."""
        self.turn_spans: list[tuple[int, int]] = []
        self.keys: dict[str, int] = {}
        self.refs: set[str] = set()

    def add(self, piece: EventPiece) -> None:
        """Validates and applies the next event. Raises InvalidDocument."""
        event = validate_event(piece)
        before = self.session_state if self.session_state.id else SessionState(id=event.session or 0)
        if event.session != before.id:
            raise InvalidDocument(
                f"{piece.location}.session", f"it is {event.session}, but {before.id} in the events before it"
            )
        try:
            self.session_state = after = apply_event(before, event)
        except InvalidTransition as invalid:
            raise InvalidDocument(piece.location, invalid) from invalid
        if event.turn != (turn := fill_derived_fields(before, event, event.ts).turn):
            raise InvalidDocument(f"{piece.location}.turn", f"it is {event.turn}, but must be {turn} here")
        self._check_totals(piece.location, event, before)
        open_call = after.turn is not None and (after.turn.calls or after.turn.executing)
        self.message_counts.append(-1 if open_call else after.messages)
        self._collect(piece.location, event, before)

    def check_resume_point(self, location: str, seq: int, messages: int) -> None:
        """Raises InvalidDocument if no conversation can continue from that event with that number of messages."""
        if not 1 <= seq <= len(self.message_counts) or self.message_counts[seq - 1] < 0:
            raise InvalidDocument(
                location,
                f"a conversation cannot continue from seq {seq}: a tool call is open there, or there is no such event",
            )
        if self.message_counts[seq - 1] != messages:
            raise InvalidDocument(
                location, f"there are {self.message_counts[seq - 1]} messages up to seq {seq}, not {messages}"
            )

    def _check_totals(self, location: str, event: AnySessionEvent, state_before: SessionState) -> None:
        """Raises InvalidDocument if a total in the event contradicts the log before it."""
        match event:
            case Rewound(to=to, messages=messages):
                self.check_resume_point(location, to, messages)
            case AssistantMessage() if max(msgspec.structs.astuple(self.session_state.usage)) > MAX_NUMBER:
                raise InvalidDocument(f"{location}.usage", f"the total up to here exceeds {MAX_NUMBER:,}")
            case Done(messages=int(messages)) if messages != self.session_state.messages:
                raise InvalidDocument(
                    f"{location}.messages", f"there are {self.session_state.messages} messages by then, not {messages}"
                )
            case Done():
                expected = fill_derived_fields(state_before, event, event.ts)
                for name in ("text", "rounds", "usage", "cost_usd"):
                    _check_equal(f"{location}.{name}", getattr(event, name), getattr(expected, name))
            case ToolCallsComplete() if state_before.turn:
                _check_equal(f"{location}.count", event.count, state_before.turn.requested_calls)
            case ToolStarted(call_id=call_id) | ToolResult(call_id=call_id) if state_before.turn:
                name = next(call.name for call in state_before.turn.calls if call.id == call_id)
                _check_equal(f"{location}.name", event.name, name)
            case _:
                pass

    def _collect(self, location: str, event: AnySessionEvent, state_before: SessionState) -> None:
        match event:
            case UserMessage(key=str(key)):
                if key in self.keys:
                    raise InvalidDocument(f"{location}.key", f"{key[:80]!r} was used by an earlier message")
                self.keys[key] = event.turn or 0
            case Done() if state_before.turn:
                self.turn_spans.append((state_before.turn.first_seq, self.session_state.last_seq))
            case ToolResult(ref=str(ref)):
                self.refs.add(ref)
            case _:
                pass


class _Validator:
    """Collects the pieces of a document and validates them."""

    def __init__(self) -> None:
        self._session_header: SessionHeader | None = None
        self._own_log = _LogReplay()
        self._ancestor_logs: dict[int, _LogReplay] = {}
        self._ancestor_fields: dict[tuple[int, str], int] = {}
        self._output_locations: dict[str, str] = {}
        self._key_digests: dict[str, bytes] = {}

    def add(self, piece: HeaderField | AncestorField | EventPiece | OutputPiece | KeyPiece) -> None:
        match piece:
            case HeaderField():
                self._add_header_field(piece)
            case AncestorField(index, name, text):
                self._ancestor_logs.setdefault(index, _LogReplay())
                self._ancestor_fields[index, name] = _decode(text, int, f"ancestors[{index}].{name}")
            case EventPiece(ancestor):
                replay = self._own_log if ancestor is None else self._ancestor_logs.setdefault(ancestor, _LogReplay())
                replay.add(piece)
            case OutputPiece():
                self._add_output(piece)
            case KeyPiece():
                self._add_key(piece)

    def _add_header_field(self, header_field: HeaderField) -> None:
        match header_field:
            case HeaderField("walrus_export", text):
                _check_version(_decode(text, int, header_field.name))
            case HeaderField("session", text):
                self._session_header = _decode(text, SessionHeader, header_field.name)
            case HeaderField("exported_at", text):
                _decode(text, float, header_field.name)
            case HeaderField(_, text):
                _decode(text, str, header_field.name)

    def _add_output(self, piece: OutputPiece) -> None:
        output = _decode(piece.text, ExportedOutput, piece.location)
        body = output.text.encode()
        if StoredOutput.from_body(body).ref != output.ref:
            raise InvalidDocument(f"{piece.location}.ref", "it is not the hash of the text")
        if len(body) > MAX_STORED_BYTES:
            raise InvalidDocument(
                piece.location, f"it is {len(body):,} bytes; the limit of an output is {MAX_STORED_BYTES:,}"
            )
        if output.ref in self._output_locations:
            raise InvalidDocument(f"{piece.location}.ref", "it occurs twice")
        self._output_locations[output.ref] = piece.location

    def _add_key(self, piece: KeyPiece) -> None:
        used_key = _decode(piece.text, ExportedKey, piece.location)
        if used_key.key in self._key_digests:
            raise InvalidDocument(f"{piece.location}.key", "it occurs twice")
        self._key_digests[used_key.key] = bytes.fromhex(used_key.digest)

    def finish(self) -> ValidatedExport:
        """Returns the result, after all pieces were added. Raises InvalidDocument."""
        replays = [*(self._ancestor_logs[index] for index in sorted(self._ancestor_logs)), self._own_log]
        self._check_lineage(replays)
        state = self._own_log.session_state
        if state.turn is not None:
            raise InvalidDocument("events", f"they end within turn {state.turn.number}, which has no done event")
        self._check_session_header(state)
        referenced = set().union(*(replay.refs for replay in replays))
        for ref, location in self._output_locations.items():
            if ref not in referenced:
                raise InvalidDocument(f"{location}.ref", "no tool_result refers to it")
        if unmatched := self._own_log.keys.keys() ^ self._key_digests.keys():
            raise InvalidDocument(
                "keys", f"they differ from the keys of the messages: {min(unmatched)[:80]!r} is in only one of them"
            )
        return ValidatedExport(
            session_states=tuple(replay.session_state for replay in replays),
            turn_spans=tuple(self._own_log.turn_spans),
            keys={key: (turn, self._key_digests[key]) for key, turn in self._own_log.keys.items()},
        )

    def _check_lineage(self, replays: list[_LogReplay]) -> None:
        """Raises InvalidDocument unless each log is a fork of the one before it, at that one's last event."""
        for index, replay in enumerate(replays):
            prefix = f"ancestors[{index}]." if index < len(replays) - 1 else ""
            if not replay.session_state.last_seq:
                raise InvalidDocument(f"{prefix}events", "there are no events")
            if prefix and self._ancestor_fields[index, "session"] != replay.session_state.id:
                raise InvalidDocument(f"{prefix}session", f"its events are of session {replay.session_state.id}")
            if prefix and self._ancestor_fields[index, "upto"] != replay.session_state.last_seq:
                raise InvalidDocument(f"{prefix}upto", f"the events end at seq {replay.session_state.last_seq}")
        if replays[0].session_state.parent is not None:
            raise InvalidDocument(
                "ancestors",
                f"the oldest is a fork of session {replays[0].session_state.parent.session}, which is missing",
            )
        if len({replay.session_state.id for replay in replays}) < len(replays):
            raise InvalidDocument("ancestors", "a session occurs twice")
        for older, younger in pairwise(replays):
            parent, location = younger.session_state.parent, f"the parent of session {younger.session_state.id}"
            if parent is None or (parent.session, parent.seq) != (older.session_state.id, older.session_state.last_seq):
                expected = f"session {older.session_state.id} up to seq {older.session_state.last_seq}"
                actual = "none" if parent is None else f"session {parent.session} up to seq {parent.seq}"
                raise InvalidDocument(location, f"it is {actual}, but the log before it is {expected}")
            older.check_resume_point(location, parent.seq, parent.messages)

    def _check_session_header(self, session_state: SessionState) -> None:
        assert self._session_header is not None, "no member is missing"
        left_out = self._session_header.turn_left_out
        if left_out not in (None, session_state.turns + 1):
            raise InvalidDocument(
                "session.turn_left_out", f"it is {left_out}, but the document has {session_state.turns} turns"
            )
        expected = make_session_header(session_state, left_out)
        for name in SessionHeader.__struct_fields__:
            _check_equal(f"session.{name}", getattr(self._session_header, name), getattr(expected, name))


def _check_equal(location: str, actual: object, expected: object) -> None:
    """Raises InvalidDocument if a field is not what follows from the events before."""
    if actual != expected:
        raise InvalidDocument(location, f"it is {actual!r:.200}, but {expected!r:.200} by the events")


def _check_version(version: int) -> None:
    if version > FORMAT_VERSION:
        raise Problem(
            "not_available_yet",
            f"the document has format version {version}; this walrusd knows {FORMAT_VERSION}",
            "Import it with a walrusd as new as the one that exported it.",
        )
    if version != FORMAT_VERSION:
        raise InvalidDocument("walrus_export", f"there is no version {version}")


def make_session_header(session_state: SessionState, turn_left_out: int | None) -> SessionHeader:
    return SessionHeader(
        id=session_state.id,
        agent=session_state.agent,
        title=session_state.title,
        created_by=session_state.created_by,
        created_at=session_state.created_at,
        last_seq=session_state.last_seq,
        turn_left_out=turn_left_out,
    )


def validate_document(read: Callable[[], str], between_pieces: Callable[[], None]) -> ValidatedExport:
    """Validates the document whose text `read` returns.

    Raises InvalidDocument, or Problem for a newer version. `between_pieces` is called before each piece; an exception
    of it ends the validation.
    """
    validator = _Validator()
    for piece in read_pieces(read):
        between_pieces()
        validator.add(piece)
    return validator.finish()


def _decode(text: str, kind: type[T], location: str) -> T:
    try:
        return decode(text, kind)
    except BadJson as error:
        raise InvalidDocument(location, error) from error
