"""The handles of a session's turns: they are bound when a turn begins, and settled when it has ended."""

from walrus_protocol.events import Done
from walrus_protocol.problems import Problem
from walrusd.runtime.streams.fanout import SessionStream
from walrusd.runtime.turns.turn_handle import TurnHandle, make_turn_result
from walrusd.session.session import Session


class TurnHandles:
    """The unsettled handles of one session."""

    def __init__(self, session: Session, stream: SessionStream) -> None:
        self.by_key: dict[str, TurnHandle] = {}
        """Handles of sends with a key."""
        self.by_place: dict[int, TurnHandle] = {}
        """Handles of queued messages, by their place in the inbox."""
        self._session = session
        self._stream = stream
        self._of_open_turn: list[TurnHandle] = []

    def join_open_turn(self, handle: TurnHandle | None = None) -> TurnHandle:
        """Binds the handle, or a new one, to the open turn from its first event on."""
        return self._bind(handle or TurnHandle(self._session.id), from_start=True)

    def bind_to_last_message(self, handle: TurnHandle) -> None:
        """Binds the handle to the open turn; its message has just become the last event of the log."""
        self._bind(handle, from_start=False)

    def _bind(self, handle: TurnHandle, *, from_start: bool) -> TurnHandle:
        turn = self._session.turn
        assert turn is not None, "called only while a turn is open"
        seq = turn.first_seq if from_start else self._session.state.last_seq
        handle.mark_started(turn.number, turn.first_seq, seq, self._stream)
        self._of_open_turn.append(handle)
        return handle

    def finish_turn(self, done: Done, seq: int) -> None:
        """Settles the handles of the turn that `done`, event `seq`, has ended."""
        for handle in self._take_open_turn():
            handle.finish(make_turn_result(done, self._session.id, handle.first_seq, seq))
        self.drop_settled_keys()

    def fail_turn(self, problem: Problem) -> None:
        """Fails the handles of the open turn, because its end cannot be recorded now."""
        turn = self._session.turn
        for handle in self._take_open_turn():
            handle.fail(problem.with_data(session=self._session.id, turn=turn.number if turn else None))
        self.drop_settled_keys()

    def fail_all(self, problem: Problem) -> None:
        """Fails the handles of the open turn and of queued messages; the messages stay in the inbox."""
        handles, self.by_place = self.by_place, {}
        for handle in handles.values():
            handle.fail(problem.with_data(session=self._session.id, turn=None))
        self.fail_turn(problem)

    def drop_settled_keys(self) -> None:
        """Drops the handles of settled sends; a repeat of their key is answered from the store."""
        self.by_key = {key: handle for key, handle in self.by_key.items() if not handle.settled.is_set()}

    def _take_open_turn(self) -> list[TurnHandle]:
        handles, self._of_open_turn = self._of_open_turn, []
        return handles
