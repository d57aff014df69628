"""Tests the state machine of a session's turns against a table of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import get_args

import pytest
import trio

from walrusd.runtime.sessions.admission import TRANSITIONS, Admission, AdmissionState, AdmittedTurn, Transition

TURN = AdmittedTurn(timeout_s=3)
STEPS: dict[str, Callable[[Admission], object]] = {
    "begin_opening": Admission.begin_opening,
    "cancel_opening": Admission.cancel_opening,
    "hand_over": lambda admission: admission.hand_over(TURN),
    "take_over": Admission.take_over,
    "start_worker": Admission.start_worker,
    "end_worker": Admission.end_worker,
}
WAITS: dict[str, Callable[[Admission], AbstractContextManager[None]]] = {
    "waiting_for_slot": lambda admission: admission.waiting_for_slot(None),
    "suspended": Admission.suspension,
}

ALLOWED_STEPS: dict[str, dict[str, str]] = {
    "idle": {"begin_opening": "opening", "start_worker": "running"},
    "opening": {"cancel_opening": "idle", "hand_over": "handed_over"},
    "running": {"begin_opening": "handing_over", "end_worker": "idle"},
    "handing_over": {"cancel_opening": "running", "hand_over": "handed_over", "end_worker": "opening"},
    "handed_over": {"take_over": "running", "end_worker": "idle"},
    "waiting_for_slot": {},
    "suspended": {},
}
PATHS: dict[str, tuple[str, ...]] = {
    "idle": (),
    "opening": ("begin_opening",),
    "running": ("start_worker",),
    "handing_over": ("start_worker", "begin_opening"),
    "handed_over": ("begin_opening", "hand_over"),
}
"""The steps that lead from a new session to each state without a wait."""


@pytest.fixture(params=ALLOWED_STEPS)
async def admission(request: pytest.FixtureRequest) -> AsyncIterator[Admission]:
    """Yields a session's admission in each of the states."""
    admission = Admission()
    for step in PATHS.get(request.param, PATHS["running"]):
        STEPS[step](admission)
    if request.param in PATHS:
        yield admission
    else:
        with WAITS[request.param](admission):
            yield admission


def test_the_table_names_every_state_and_every_transition() -> None:
    assert {*ALLOWED_STEPS} == {*get_args(AdmissionState)}
    assert {transition for _, transition in TRANSITIONS} == {*get_args(Transition)}


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_leads_to_its_state_and_any_other_is_a_bug(admission: Admission, step: str) -> None:
    await trio.lowlevel.checkpoint()
    before = admission.state
    after = ALLOWED_STEPS[before].get(step)
    if after:
        STEPS[step](admission)
        assert admission.state == after
    else:
        with pytest.raises(AssertionError, match=before):
            STEPS[step](admission)
        assert admission.state == before


@pytest.mark.parametrize("wait", WAITS)
async def test_only_a_running_worker_waits_and_it_runs_again_afterwards(admission: Admission, wait: str) -> None:
    await trio.lowlevel.checkpoint()
    before = admission.state
    if before == "running":
        with WAITS[wait](admission):
            assert str(admission.state) == wait
        assert admission.state == "running"
    else:
        with pytest.raises(AssertionError, match=before), WAITS[wait](admission):
            pass
        assert admission.state == before


@pytest.mark.parametrize(
    ("state", "has_worker", "can_begin_opening"),
    [
        ("idle", False, True),
        ("opening", False, False),
        ("running", True, True),
        ("handing_over", True, False),
        ("handed_over", True, False),
        ("waiting_for_slot", True, False),
        ("suspended", True, False),
    ],
)
def test_what_a_state_means(state: AdmissionState, has_worker: bool, can_begin_opening: bool) -> None:
    admission = Admission()
    admission.state = state
    assert (admission.has_worker, admission.can_begin_opening) == (has_worker, can_begin_opening)


async def test_a_turn_is_handed_to_the_worker_of_the_turn_before_or_to_a_new_one() -> None:
    await trio.lowlevel.checkpoint()
    admission = Admission()
    admission.begin_opening()
    assert admission.hand_over(TURN), "there is no worker yet"
    assert admission.take_over() is TURN
    admission.begin_opening()
    assert not admission.hand_over(TURN), "the worker has not ended yet"
    assert admission.take_over() is TURN


async def test_an_interrupt_ends_the_turn_and_the_wait_for_a_slot(autojump_clock: trio.abc.Clock) -> None:
    admission = Admission()
    admission.start_worker()
    with admission.cancellable_turn(None) as scope:
        admission.interrupt_worker()
        await trio.sleep_forever()
    assert scope.cancelled_caught
    with admission.waiting_for_slot(None):
        admission.interrupt_worker()
        await trio.sleep_forever()
    began = trio.current_time()
    with admission.waiting_for_slot(5):
        await trio.sleep_forever()
    assert trio.current_time() - began == 5


async def test_a_suspended_worker_retries_after_a_time_or_on_request(autojump_clock: trio.abc.Clock) -> None:
    admission = Admission()
    admission.start_worker()
    began = trio.current_time()
    with admission.suspension():
        await admission.wait_retry(7)
        assert trio.current_time() - began == 7
        admission.retry_store()
        await admission.wait_retry(7)
        assert trio.current_time() - began == 7


def test_a_worker_that_ends_with_a_turn_handed_over_says_that_its_slot_is_free() -> None:
    admission = Admission()
    admission.start_worker()
    assert not admission.end_worker()
    admission.start_worker()
    admission.begin_opening()
    admission.hand_over(AdmittedTurn(None))
    assert admission.end_worker()
    assert admission.state == "idle"
