"""What is looked at before anything of a document is taken: whether its logs are such as walrusd itself writes.

Every event goes through the fold that one goes through which is recorded, and what it says of the log has to be true:
a history that no provider takes, or a number that nobody could count, would stay for good. Pure.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

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
from walrusd.store.contract import StoredOutput

T = TypeVar("T")


class ValidatedExport(Struct, frozen=True, kw_only=True):
    """What a document that can be imported holds."""

    session_states: tuple[SessionState, ...]
    """The session's own comes last; before it those that it inherits from, the oldest first."""
    turn_spans: tuple[tuple[int, int], ...]
    """The first and the last seq of each turn, in order."""
    keys: Mapping[str, tuple[int, bytes]]
    """The turn that each key was used in, and the digest of what was sent."""

    @property
    def session_state(self) -> SessionState:
        return self.session_states[-1]


class _LogReplay:
    """One log, event by event."""

    def __init__(self) -> None:
        self.session_state = SessionState(id=0)
        self.message_counts = array("q")
        """After each event how many messages there are, and -1 where the conversation cannot go on from it."""
        self.turn_spans: list[tuple[int, int]] = []
        self.keys: dict[str, int] = {}
        self.refs: set[str] = set()

    def add(self, piece: EventPiece) -> None:
        """Raises Bad."""
        event = validate_event(piece)
        before = self.session_state if self.session_state.id else SessionState(id=event.session or 0)
        if event.session != before.id:
            raise InvalidDocument(
                f"{piece.location}.session", f"it is {event.session}, and {before.id} in the events before it"
            )
        try:
            self.session_state = after = apply_event(before, event)
        except InvalidTransition as refused:
            raise InvalidDocument(piece.location, refused) from refused
        if event.turn != (turn := fill_derived_fields(before, event, event.ts).turn):
            raise InvalidDocument(f"{piece.location}.turn", f"it is {event.turn}, and follows in {turn}")
        self._check_totals(piece.location, event, before)
        open_call = after.turn is not None and (after.turn.calls or after.turn.executing)
        self.message_counts.append(-1 if open_call else after.messages)
        self._collect(piece.location, event, before)

    def check_resume_point(self, location: str, seq: int, messages: int) -> None:
        """Raises Bad where no conversation goes on from that event with so many messages."""
        if not 1 <= seq <= len(self.message_counts) or self.message_counts[seq - 1] < 0:
            raise InvalidDocument(
                location, f"no conversation goes on from seq {seq}: a tool call is open there, or nothing is"
            )
        if self.message_counts[seq - 1] != messages:
            raise InvalidDocument(
                location, f"there are {self.message_counts[seq - 1]} messages up to seq {seq}, not {messages}"
            )

    def _check_totals(self, location: str, event: AnySessionEvent, state_before: SessionState) -> None:
        """Raises Bad where it says of the log what that does not."""
        match event:
            case Rewound(to=to, messages=messages):
                self.check_resume_point(location, to, messages)
            case AssistantMessage() if max(msgspec.structs.astuple(self.session_state.usage)) > MAX_NUMBER:
                raise InvalidDocument(f"{location}.usage", f"with those before it, it comes to over {MAX_NUMBER:,}")
            case Done(messages=int(messages)) if messages != self.session_state.messages:
                raise InvalidDocument(
                    f"{location}.messages", f"there are {self.session_state.messages} by then, not {messages}"
                )
            case Done():
                _check_matches_log(
                    location,
                    event,
                    fill_derived_fields(state_before, event, event.ts),
                    ("text", "rounds", "usage", "cost_usd"),
                )
            case ToolCallsComplete() if state_before.turn:
                _check_matches_log(location, event, replace(event, count=state_before.turn.requested_calls), ("count",))
            case ToolStarted(call_id=call_id) | ToolResult(call_id=call_id) if state_before.turn:
                name = next(call.name for call in state_before.turn.calls if call.id == call_id)
                _check_matches_log(location, event, replace(event, name=name), ("name",))
            case _:
                pass

    def _collect(self, location: str, event: AnySessionEvent, state_before: SessionState) -> None:
        match event:
            case UserMessage(key=str(key)):
                if key in self.keys:
                    raise InvalidDocument(f"{location}.key", f"{key[:80]!r} was used before")
                self.keys[key] = event.turn or 0
            case Done() if state_before.turn:
                self.turn_spans.append((state_before.turn.first_seq, self.session_state.last_seq))
            case ToolResult(ref=str(ref)):
                self.refs.add(ref)
            case _:
                pass


class _Validator:
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
            case AncestorField(at, name, text):
                self._ancestor_logs.setdefault(at, _LogReplay())
                self._ancestor_fields[at, name] = _decode(text, int, f"ancestors[{at}].{name}")
            case EventPiece(ancestor):
                fold = self._own_log if ancestor is None else self._ancestor_logs.setdefault(ancestor, _LogReplay())
                fold.add(piece)
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
            raise InvalidDocument(f"{piece.location}.ref", "it does not follow from the text")
        if len(body) > MAX_STORED_BYTES:
            raise InvalidDocument(
                piece.location, f"it is {len(body):,} bytes; at most {MAX_STORED_BYTES:,} are kept of an output"
            )
        if output.ref in self._output_locations:
            raise InvalidDocument(f"{piece.location}.ref", "it comes twice")
        self._output_locations[output.ref] = piece.location

    def _add_key(self, piece: KeyPiece) -> None:
        one = _decode(piece.text, ExportedKey, piece.location)
        if one.key in self._key_digests:
            raise InvalidDocument(f"{piece.location}.key", "it comes twice")
        self._key_digests[one.key] = bytes.fromhex(one.digest)

    def finish(self) -> ValidatedExport:
        """When all pieces have been taken. Raises Bad where they do not go together."""
        folds = [*(self._ancestor_logs[at] for at in sorted(self._ancestor_logs)), self._own_log]
        self._check_lineage(folds)
        outline = self._own_log.session_state
        if outline.turn is not None:
            raise InvalidDocument("events", f"they end within turn {outline.turn.number}: it has no done")
        self._check_session_header(outline)
        named = set().union(*(fold.refs for fold in folds))
        for ref, place in self._output_locations.items():
            if ref not in named:
                raise InvalidDocument(f"{place}.ref", "no tool_result names it")
        if unlike := self._own_log.keys.keys() ^ self._key_digests.keys():
            raise InvalidDocument(
                "keys", f"they are not those of the messages: {min(unlike)[:80]!r} is only in one of both"
            )
        return ValidatedExport(
            session_states=tuple(fold.session_state for fold in folds),
            turn_spans=tuple(self._own_log.turn_spans),
            keys={key: (turn, self._key_digests[key]) for key, turn in self._own_log.keys.items()},
        )

    def _check_lineage(self, replays: list[_LogReplay]) -> None:
        """Each log goes on from the one before it, as far as that is there. Raises Bad."""
        for at, fold in enumerate(replays):
            within = f"ancestors[{at}]." if at < len(replays) - 1 else ""
            if not fold.session_state.last_seq:
                raise InvalidDocument(f"{within}events", "there is none")
            if within and self._ancestor_fields[at, "session"] != fold.session_state.id:
                raise InvalidDocument(f"{within}session", f"it is not that of its events, {fold.session_state.id}")
            if within and self._ancestor_fields[at, "upto"] != fold.session_state.last_seq:
                raise InvalidDocument(f"{within}upto", f"the events end at seq {fold.session_state.last_seq}")
        if replays[0].session_state.parent is not None:
            raise InvalidDocument(
                "ancestors",
                f"the oldest goes on from session {replays[0].session_state.parent.session}, which is missing",
            )
        if len({fold.session_state.id for fold in replays}) < len(replays):
            raise InvalidDocument("ancestors", "a session comes twice")
        for older, younger in pairwise(replays):
            parent, place = younger.session_state.parent, f"the parent of session {younger.session_state.id}"
            if parent is None or (parent.session, parent.seq) != (older.session_state.id, older.session_state.last_seq):
                there = f"session {older.session_state.id} up to seq {older.session_state.last_seq}"
                read = "none" if parent is None else f"session {parent.session} up to seq {parent.seq}"
                raise InvalidDocument(place, f"it is {read}, and before it comes {there}")
            older.check_resume_point(place, parent.seq, parent.messages)

    def _check_session_header(self, session_state: SessionState) -> None:
        assert self._session_header is not None, "no member is missing"
        left_out = self._session_header.turn_left_out
        if left_out not in (None, session_state.turns + 1):
            raise InvalidDocument(
                "session.turn_left_out", f"it is {left_out}, and {session_state.turns} turns are here"
            )
        told = make_session_header(session_state, left_out)
        for name in SessionHeader.__struct_fields__:
            if (is_ := getattr(told, name)) != (said := getattr(self._session_header, name)):
                raise InvalidDocument(f"session.{name}", f"it is {_shorten(said)}, and {_shorten(is_)} by the events")


def _check_matches_log(location: str, event: AnySessionEvent, expected: AnySessionEvent, names: Sequence[str]) -> None:
    """Raises Bad where the event is not as it follows from those before it."""
    for name in names:
        if (is_ := getattr(expected, name)) != (said := getattr(event, name)):
            raise InvalidDocument(f"{location}.{name}", f"it is {_shorten(said)}, and {_shorten(is_)} by the events")


def _shorten(value: object) -> str:
    return repr(value)[:200]


def _check_version(version: int) -> None:
    if version > FORMAT_VERSION:
        raise Problem(
            "not_available_yet",
            f"the document is of version {version}, and this walrusd knows {FORMAT_VERSION}",
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
    """The document whose text `read` gives. Raises Bad, and Problem for one of a newer version.

    `between` is called between two pieces; what it raises ends the examination.
    """
    examiner = _Validator()
    for piece in read_pieces(read):
        between_pieces()
        examiner.add(piece)
    return examiner.finish()


def _decode(text: str, kind: type[T], location: str) -> T:
    try:
        return decode(text, kind)
    except BadJson as error:
        raise InvalidDocument(location, error) from error
