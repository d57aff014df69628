"""The state machine of a session's turns: who may open the next turn, and what the worker of the session does.

A request opens a turn, which the worker then runs; or the worker opens it from the inbox. The worker of the previous
turn may still be ending while a request opens the next one: then that worker runs it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Literal

import trio
from msgspec import Struct

AdmissionState = Literal[
    "idle",  # no worker, and no request opens a turn
    "opening",  # no worker; a request opens a turn, rewinds the session or closes it
    "running",  # the worker opens turns and runs them
    "handing_over",  # as `opening`, while the worker of the previous turn ends
    "handed_over",  # a request has opened a turn, which the worker is going to run
    "waiting_for_slot",
    "suspended",  # the worker waits until the store can write again
]
Transition = Literal[
    "begin_opening",
    "cancel_opening",
    "hand_over",
    "take_over",
    "start_worker",
    "end_worker",
    "begin_slot_wait",
    "end_slot_wait",
    "suspend",
    "end_suspension",
]

TRANSITIONS: Mapping[tuple[AdmissionState, Transition], AdmissionState] = {
    ("idle", "begin_opening"): "opening",
    ("idle", "start_worker"): "running",
    ("opening", "cancel_opening"): "idle",
    ("opening", "hand_over"): "handed_over",
    ("running", "begin_opening"): "handing_over",
    ("running", "begin_slot_wait"): "waiting_for_slot",
    ("running", "suspend"): "suspended",
    ("running", "end_worker"): "idle",
    ("handing_over", "cancel_opening"): "running",
    ("handing_over", "hand_over"): "handed_over",
    ("handing_over", "end_worker"): "opening",
    ("handed_over", "take_over"): "running",
    ("handed_over", "end_worker"): "idle",  # the runtime is stopping: the turn stays open in the log
    ("waiting_for_slot", "end_slot_wait"): "running",
    ("suspended", "end_suspension"): "running",
}
"""The state after each transition. Any other transition is a bug."""


class AdmittedTurn(Struct, frozen=True):
    """A turn that was opened when its message was accepted; a slot is taken for it already."""

    timeout_s: float | None


class Admission:
    """The state of one session, and what can interrupt its worker."""

    def __init__(self) -> None:
        self.state: AdmissionState = "idle"
        self._admitted: AdmittedTurn | None = None
        self._turn_scope: trio.CancelScope | None = None
        self._slot_scope: trio.CancelScope | None = None
        self._retry_now = trio.Event()

    @property
    def has_worker(self) -> bool:
        return self.state not in {"idle", "opening"}

    @property
    def can_begin_opening(self) -> bool:
        """Whether the next turn may be opened, unless a turn is open or messages are queued."""
        return self.state in {"idle", "running"}

    def begin_opening(self) -> None:
        """A request is about to open a turn, to rewind the session or to close it."""
        self._move("begin_opening")

    def cancel_opening(self) -> None:
        """No turn was opened."""
        self._move("cancel_opening")

    def hand_over(self, turn: AdmittedTurn) -> bool:
        """A turn was opened. Returns whether a worker has to be started for it."""
        needs_worker = not self.has_worker
        self._move("hand_over")
        self._admitted = turn
        return needs_worker

    def take_over(self) -> AdmittedTurn:
        """Returns the turn that was handed over, to be run by the worker."""
        self._move("take_over")
        admitted, self._admitted = self._admitted, None
        assert admitted, "it was handed over"
        return admitted

    def start_worker(self) -> None:
        self._move("start_worker")

    def end_worker(self) -> bool:
        """Returns whether a turn was handed over that is not run, and whose slot is free therefore."""
        self._move("end_worker")
        was_handed_over, self._admitted = self._admitted is not None, None
        return was_handed_over

    @contextmanager
    def waiting_for_slot(self, within_s: float | None) -> Iterator[None]:
        """Ends the block if the turn is not to be run any more, and after `within_s` seconds."""
        self._move("begin_slot_wait")
        try:
            deadline = inf if within_s is None else trio.current_time() + within_s
            with trio.CancelScope(deadline=deadline) as self._slot_scope:
                yield
        finally:
            self._slot_scope = None
            self._move("end_slot_wait")

    @contextmanager
    def cancellable_turn(self, timeout_s: float | None) -> Iterator[trio.CancelScope]:
        """Ends the block when the turn is interrupted, and after `timeout_s` seconds."""
        deadline = inf if timeout_s is None else trio.current_time() + timeout_s
        try:
            with trio.CancelScope(deadline=deadline) as self._turn_scope:
                yield self._turn_scope
        finally:
            self._turn_scope = None

    @contextmanager
    def suspension(self) -> Iterator[None]:
        """The worker waits within the block until the store can write again."""
        self._move("suspend")
        try:
            yield
        finally:
            self._move("end_suspension")

    async def wait_retry(self, within_s: float) -> None:
        """Waits until a suspended worker should try the store again."""
        with trio.move_on_after(within_s):
            await self._retry_now.wait()
        self._retry_now = trio.Event()

    def retry_store(self) -> None:
        """Makes a suspended worker try the store now."""
        self._retry_now.set()

    def cancel_slot_wait(self) -> None:
        """Ends the wait for a slot: a turn that is not to run needs none to end."""
        if self._slot_scope:
            self._slot_scope.cancel()

    def interrupt_worker(self) -> None:
        """Ends what the worker does or waits for, because an interrupt is recorded."""
        if self._turn_scope:
            self._turn_scope.cancel()
        self.cancel_slot_wait()
        self.retry_store()  # a suspended turn can end now: the store can write

    def _move(self, transition: Transition) -> None:
        after = TRANSITIONS.get((self.state, transition))
        assert after, f"{transition} while {self.state}"
        self.state = after
