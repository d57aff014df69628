"""A session: its outline and its conversation, folded from the log through one door, `apply`."""

from msgspec import Struct

from walrus_protocol.events import AnySessionEvent, CheckpointCreated
from walrusd.session.conversation import Conversation
from walrusd.session.history import ConversationView
from walrusd.session.session_state import SessionState, TurnState, apply_event


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A name for the point `at`; `seq` and `ts` are those of the event that gave it."""

    name: str
    at: int
    seq: int
    ts: float


class Session:
    """What has happened, folded. Given the same events it is the same session, on any machine, at any time."""

    def __init__(self, id: int) -> None:  # noqa: A002 - the word of the design
        self.state = SessionState(id=id)
        self.conversation = Conversation()
        self.checkpoints: dict[str, Checkpoint] = {}
        """By name, the latest given last."""

    @property
    def id(self) -> int:
        return self.state.id

    @property
    def turn(self) -> TurnState | None:
        return self.state.turn

    @property
    def history(self) -> ConversationView:
        """What the model sees, where nothing that the session inherits is missing."""
        assert self.conversation.missing_parent is None, "what a fork inherits is read before its history is"
        return self.conversation.history

    def apply(self, event: AnySessionEvent, state: SessionState | None = None) -> None:
        """Fold one stamped event. Raises Refused, with nothing changed, where it may not follow.

        `outline`: what `advance` has made of it already, by whom it was checked before it was written.
        """
        self.state = state or apply_event(self.state, event)
        seq = self.state.last_seq
        self.conversation.apply(seq, event)
        if isinstance(event, CheckpointCreated):
            self.checkpoints.pop(event.name, None)
            self.checkpoints[event.name] = Checkpoint(name=event.name, at=event.at, seq=seq, ts=event.ts)
