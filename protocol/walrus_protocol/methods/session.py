"""The params and results of session.*; forks, searches and documents have modules of their own."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from walrus_protocol.content import Message, State, StopReason, TurnError, Usage, WhenBusy
from walrus_protocol.methods.method import Method
from walrus_protocol.methods.search import Hits, SearchParams
from walrus_protocol.param_types import Id, Key, Limit, NonEmptyContent, Params, Seq, ShortText, TimeoutSeconds


class CreateParams(Params, frozen=True, kw_only=True):
    agent: str
    created_by: ShortText = ""
    title: ShortText = ""
    key: Key | None = None


class CreateResult(Struct, frozen=True, kw_only=True):
    session: int


class SessionParams(Params, frozen=True, kw_only=True):
    session: Id


class ListParams(Params, frozen=True, kw_only=True):
    agent: str | None = None
    state: State | None = None
    include_closed: bool = False
    limit: Limit = 50
    cursor: str | None = None


class ParentInfo(Struct, frozen=True, kw_only=True):
    session: int
    seq: int


class SessionInfo(Struct, frozen=True, kw_only=True):
    """A session as lists show it.

    `messages` counts the messages of users and assistants that the model sees.

    `cost_usd` is null if the price of any call is unknown. `error` is the last turn's error in the state `error`.
    """

    id: int
    agent: str
    created_by: str = ""
    title: str = ""
    state: State = "idle"
    queued: int = 0
    messages: int = 0
    created_at: float = 0.0
    updated_at: float = 0.0
    last_seq: int = 0
    parent: ParentInfo | None = None
    usage: Usage = Usage()
    cost_usd: float | None = 0.0
    error: TurnError | None = None
    open_approvals: tuple[int, ...] = ()
    open_questions: tuple[int, ...] = ()


class SessionList(Struct, frozen=True, kw_only=True):
    sessions: tuple[SessionInfo, ...]
    cursor: str | None = None


class SendParams(Params, frozen=True, kw_only=True):
    session: Id
    content: NonEmptyContent
    sender: ShortText = ""
    key: Key | None = None
    when_busy: WhenBusy = "queue"
    timeout_s: TimeoutSeconds | None = None


class TurnResult(Struct, frozen=True, kw_only=True):
    """The result of a turn, sent when its `done` is durable.

    `first_seq` and `last_seq` are the seqs of its user message and of its `done`.
    """

    session: int
    turn: int
    text: str
    stop_reason: StopReason
    error: TurnError | None = None
    rounds: int = 0
    usage: Usage = Usage()
    cost_usd: float | None = None
    first_seq: int = 0
    last_seq: int = 0


class AttachParams(Params, frozen=True, kw_only=True):
    session: Id
    since: Seq = 0
    follow: bool = True
    deltas: bool = True


class AttachResult(Struct, frozen=True, kw_only=True):
    last_seq: int
    reason: Literal["end", "closed"]


class WaitParams(Params, frozen=True, kw_only=True):
    session: Id
    states: Annotated[tuple[State, ...], Meta(min_length=1)]
    timeout_s: TimeoutSeconds | None = None


class WaitResult(Struct, frozen=True, kw_only=True):
    state: State


class HistoryParams(Params, frozen=True, kw_only=True):
    session: Id
    limit: Limit = 50
    cursor: str | None = None


class History(Struct, frozen=True, kw_only=True):
    messages: tuple[Message, ...]
    cursor: str | None = None


class InterruptResult(Struct, frozen=True, kw_only=True):
    interrupted: bool
    turn: int | None = None


class CloseParams(Params, frozen=True, kw_only=True):
    session: Id
    force: bool = False


class CloseResult(Struct, frozen=True, kw_only=True):
    closed: bool


ROWS: dict[str, Method] = {
    "session.create": Method(CreateParams, CreateResult),
    "session.list": Method(ListParams, SessionList),
    "session.get": Method(SessionParams, SessionInfo),
    "session.send": Method(SendParams, TurnResult, order_by="session"),
    "session.stream": Method(SendParams, TurnResult, order_by="session", sends="events"),
    "session.attach": Method(AttachParams, AttachResult, sends="events"),
    "session.wait": Method(WaitParams, WaitResult),
    "session.history": Method(HistoryParams, History),
    "session.search": Method(SearchParams, Hits),
    "session.interrupt": Method(SessionParams, InterruptResult, order_by="session"),
    "session.close": Method(CloseParams, CloseResult, order_by="session"),
    "session.resume": Method(SessionParams, TurnResult, order_by="session"),
}
