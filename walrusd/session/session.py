"""A session in memory: its state and its conversation, folded from the log by `apply` alone."""

from msgspec import Struct

from walrus_protocol.events import AnySessionEvent, CheckpointCreated
from walrusd.session.conversation import Conversation, ConversationView
from walrusd.session.session_state import SessionState, TurnState, apply_event


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A name for the point `at`; `seq` and `ts` are those of the event that named it."""

    name: str
    at: int
    seq: int
    ts: float


class Session:
    """A session, folded from its events.

    The same events give the same session on any machine, at any time.
    """

    def __init__(self, id: int) -> None:  # noqa: A002 - the word of the design
        self.id = id
        self.state = SessionState(id=id)
        self.turn: TurnState | None = None
        """The open turn of `state`."""
        self.conversation = Conversation()
        self.checkpoints: dict[str, Checkpoint] = {}
        """Checkpoints by name, the latest one last."""

    @property
    def history(self) -> ConversationView:
        """The messages that the model sees; the inherited ones must be loaded."""
        assert self.conversation.missing_parent is None, "inherited messages must be loaded before the history is read"
        return self.conversation.history

    def apply(self, event: AnySessionEvent, state: SessionState | None = None) -> None:
        """Folds one stamped event. Raises InvalidTransition and changes nothing if it is not allowed here.

        `state` is the result of `apply_event` for this event, if the caller has computed it to check the event.
        """
        self.state = state or apply_event(self.state, event)
        self.turn, seq = self.state.turn, self.state.last_seq
        self.conversation.apply(seq, event)
        if isinstance(event, CheckpointCreated):
            self.checkpoints.pop(event.name, None)
            self.checkpoints[event.name] = Checkpoint(name=event.name, at=event.at, seq=seq, ts=event.ts)
