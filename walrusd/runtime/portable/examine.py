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
    AssistantMessage,
    Done,
    Durable,
    Rewound,
    ToolCallsComplete,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrus_protocol.json import BadJson, decode
from walrus_protocol.portable import FORMAT, Described, KeptOutput, UsedKey
from walrus_protocol.problems import Problem
from walrusd.dispatch.output import KEPT
from walrusd.runtime.portable.document import Ancestor, Bad, Kept, Member, Told, Used, pieces
from walrusd.runtime.portable.event import HIGHEST, checked_event
from walrusd.session.outline import Outline, advance, stamp
from walrusd.session.states import Refused
from walrusd.store.log import Output

T = TypeVar("T")


class Examined(Struct, frozen=True, kw_only=True):
    """What a document that can be imported holds."""

    logs: tuple[Outline, ...]
    """The session's own comes last; before it those that it inherits from, the oldest first."""
    spans: tuple[tuple[int, int], ...]
    """The first and the last seq of each turn, in order."""
    keys: Mapping[str, tuple[int, bytes]]
    """The turn that each key was used in, and the digest of what was sent."""

    @property
    def session(self) -> Outline:
        return self.logs[-1]


class _Fold:
    """One log, event by event."""

    def __init__(self) -> None:
        self.outline = Outline(id=0)
        self.standing = array("q")
        """After each event how many messages there are, and -1 where the conversation cannot go on from it."""
        self.spans: list[tuple[int, int]] = []
        self.keys: dict[str, int] = {}
        self.refs: set[str] = set()

    def add(self, told: Told) -> None:
        """Raises Bad."""
        event = checked_event(told)
        before = self.outline if self.outline.id else Outline(id=event.session or 0)
        if event.session != before.id:
            raise Bad(f"{told.place}.session", f"it is {event.session}, and {before.id} in the events before it")
        try:
            self.outline = after = advance(before, event)
        except Refused as refused:
            raise Bad(told.place, refused) from refused
        if event.turn != (turn := stamp(before, event, event.ts).turn):
            raise Bad(f"{told.place}.turn", f"it is {event.turn}, and follows in {turn}")
        self._counts(told.place, event, before)
        open_call = after.turn is not None and (after.turn.calls or after.turn.executing)
        self.standing.append(-1 if open_call else after.messages)
        self._note(told.place, event, before)

    def stands(self, place: str, seq: int, messages: int) -> None:
        """Raises Bad where no conversation goes on from that event with so many messages."""
        if not 1 <= seq <= len(self.standing) or self.standing[seq - 1] < 0:
            raise Bad(place, f"no conversation goes on from seq {seq}: a tool call is open there, or nothing is")
        if self.standing[seq - 1] != messages:
            raise Bad(place, f"there are {self.standing[seq - 1]} messages up to seq {seq}, not {messages}")

    def _counts(self, place: str, event: Durable, before: Outline) -> None:
        """Raises Bad where it says of the log what that does not."""
        match event:
            case Rewound(to=to, messages=messages):
                self.stands(place, to, messages)
            case AssistantMessage() if max(msgspec.structs.astuple(self.outline.usage)) > HIGHEST:
                raise Bad(f"{place}.usage", f"with those before it, it comes to over {HIGHEST:,}")
            case Done(messages=int(messages)) if messages != self.outline.messages:
                raise Bad(f"{place}.messages", f"there are {self.outline.messages} by then, not {messages}")
            case Done():
                _same(place, event, stamp(before, event, event.ts), ("text", "rounds", "usage", "cost_usd"))
            case ToolCallsComplete() if before.turn:
                _same(place, event, replace(event, count=before.turn.asked), ("count",))
            case ToolStarted(call_id=call_id) | ToolResult(call_id=call_id) if before.turn:
                name = next(call.name for call in before.turn.calls if call.id == call_id)
                _same(place, event, replace(event, name=name), ("name",))
            case _:
                pass

    def _note(self, place: str, event: Durable, before: Outline) -> None:
        match event:
            case UserMessage(key=str(key)):
                if key in self.keys:
                    raise Bad(f"{place}.key", f"{key[:80]!r} was used before")
                self.keys[key] = event.turn or 0
            case Done() if before.turn:
                self.spans.append((before.turn.first_seq, self.outline.last_seq))
            case ToolResult(ref=str(ref)):
                self.refs.add(ref)
            case _:
                pass


class _Examiner:
    def __init__(self) -> None:
        self._described: Described | None = None
        self._own = _Fold()
        self._ancestors: dict[int, _Fold] = {}
        self._ancestry: dict[tuple[int, str], int] = {}
        self._outputs: dict[str, str] = {}
        self._digests: dict[str, bytes] = {}

    def take(self, piece: Member | Ancestor | Told | Kept | Used) -> None:
        match piece:
            case Member():
                self._member(piece)
            case Ancestor(at, name, text):
                self._ancestors.setdefault(at, _Fold())
                self._ancestry[at, name] = _read(text, int, f"ancestors[{at}].{name}")
            case Told(ancestor):
                fold = self._own if ancestor is None else self._ancestors.setdefault(ancestor, _Fold())
                fold.add(piece)
            case Kept():
                self._output(piece)
            case Used():
                self._key(piece)

    def _member(self, member: Member) -> None:
        match member:
            case Member("walrus_export", text):
                _check_version(_read(text, int, member.name))
            case Member("session", text):
                self._described = _read(text, Described, member.name)
            case Member("exported_at", text):
                _read(text, float, member.name)
            case Member(_, text):
                _read(text, str, member.name)

    def _output(self, kept: Kept) -> None:
        output = _read(kept.text, KeptOutput, kept.place)
        body = output.text.encode()
        if Output.of(body).ref != output.ref:
            raise Bad(f"{kept.place}.ref", "it does not follow from the text")
        if len(body) > KEPT:
            raise Bad(kept.place, f"it is {len(body):,} bytes; at most {KEPT:,} are kept of an output")
        if output.ref in self._outputs:
            raise Bad(f"{kept.place}.ref", "it comes twice")
        self._outputs[output.ref] = kept.place

    def _key(self, used: Used) -> None:
        one = _read(used.text, UsedKey, used.place)
        if one.key in self._digests:
            raise Bad(f"{used.place}.key", "it comes twice")
        self._digests[one.key] = bytes.fromhex(one.digest)

    def examined(self) -> Examined:
        """When all pieces have been taken. Raises Bad where they do not go together."""
        folds = [*(self._ancestors[at] for at in sorted(self._ancestors)), self._own]
        self._related(folds)
        outline = self._own.outline
        if outline.turn is not None:
            raise Bad("events", f"they end within turn {outline.turn.number}: it has no done")
        self._as_described(outline)
        named = set().union(*(fold.refs for fold in folds))
        for ref, place in self._outputs.items():
            if ref not in named:
                raise Bad(f"{place}.ref", "no tool_result names it")
        if unlike := self._own.keys.keys() ^ self._digests.keys():
            raise Bad("keys", f"they are not those of the messages: {min(unlike)[:80]!r} is only in one of both")
        return Examined(
            logs=tuple(fold.outline for fold in folds),
            spans=tuple(self._own.spans),
            keys={key: (turn, self._digests[key]) for key, turn in self._own.keys.items()},
        )

    def _related(self, folds: list[_Fold]) -> None:
        """Each log goes on from the one before it, as far as that is there. Raises Bad."""
        for at, fold in enumerate(folds):
            within = f"ancestors[{at}]." if at < len(folds) - 1 else ""
            if not fold.outline.last_seq:
                raise Bad(f"{within}events", "there is none")
            if within and self._ancestry[at, "session"] != fold.outline.id:
                raise Bad(f"{within}session", f"it is not that of its events, {fold.outline.id}")
            if within and self._ancestry[at, "upto"] != fold.outline.last_seq:
                raise Bad(f"{within}upto", f"the events end at seq {fold.outline.last_seq}")
        if folds[0].outline.parent is not None:
            raise Bad(
                "ancestors", f"the oldest goes on from session {folds[0].outline.parent.session}, which is missing"
            )
        if len({fold.outline.id for fold in folds}) < len(folds):
            raise Bad("ancestors", "a session comes twice")
        for older, younger in pairwise(folds):
            parent, place = younger.outline.parent, f"the parent of session {younger.outline.id}"
            if parent is None or (parent.session, parent.seq) != (older.outline.id, older.outline.last_seq):
                there = f"session {older.outline.id} up to seq {older.outline.last_seq}"
                read = "none" if parent is None else f"session {parent.session} up to seq {parent.seq}"
                raise Bad(place, f"it is {read}, and before it comes {there}")
            older.stands(place, parent.seq, parent.messages)

    def _as_described(self, outline: Outline) -> None:
        assert self._described is not None, "no member is missing"
        left_out = self._described.turn_left_out
        if left_out not in (None, outline.turns + 1):
            raise Bad("session.turn_left_out", f"it is {left_out}, and {outline.turns} turns are here")
        told = described(outline, left_out)
        for name in Described.__struct_fields__:
            if (is_ := getattr(told, name)) != (said := getattr(self._described, name)):
                raise Bad(f"session.{name}", f"it is {_brief(said)}, and {_brief(is_)} by the events")


def _same(place: str, event: Durable, known: Durable, names: Sequence[str]) -> None:
    """Raises Bad where the event is not as it follows from those before it."""
    for name in names:
        if (is_ := getattr(known, name)) != (said := getattr(event, name)):
            raise Bad(f"{place}.{name}", f"it is {_brief(said)}, and {_brief(is_)} by the events")


def _brief(value: object) -> str:
    return repr(value)[:200]


def _check_version(version: int) -> None:
    if version > FORMAT:
        raise Problem(
            "not_available_yet",
            f"the document is of version {version}, and this walrusd knows {FORMAT}",
            "Import it with a walrusd as new as the one that exported it.",
        )
    if version != FORMAT:
        raise Bad("walrus_export", f"there is no version {version}")


def described(outline: Outline, turn_left_out: int | None) -> Described:
    return Described(
        id=outline.id,
        agent=outline.agent,
        title=outline.title,
        created_by=outline.created_by,
        created_at=outline.created_at,
        last_seq=outline.last_seq,
        turn_left_out=turn_left_out,
    )


def examine(read: Callable[[], str], between: Callable[[], None]) -> Examined:
    """The document whose text `read` gives. Raises Bad, and Problem for one of a newer version.

    `between` is called between two pieces; what it raises ends the examination.
    """
    examiner = _Examiner()
    for piece in pieces(read):
        between()
        examiner.take(piece)
    return examiner.examined()


def _read(text: str, kind: type[T], place: str) -> T:
    try:
        return decode(text, kind)
    except BadJson as error:
        raise Bad(place, error) from error
