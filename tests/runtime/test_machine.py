"""A machine that plays stories: whatever clients, model, store and power do, what was promised is kept.

`--hypothesis-profile=thorough` plays many more. What is drawn is in machine_orders.py, who acts it out in
machine_life.py, what they are held to in machine_claims.py (sends), machine_branches.py (forks, rewinds, checkpoints),
machine_past.py and machine_turns.py (what a log may say), machine_facts.py and machine_watcher.py.
"""

import logging
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings

from tests.runtime.machine_claims import Claims
from tests.runtime.machine_facts import Facts
from tests.runtime.machine_life import LONG_S, STORAGE, Life
from tests.runtime.machine_orders import (
    Checkpoint,
    Close,
    Evict,
    Fork,
    Hold,
    Interrupt,
    Leave,
    Order,
    Pass,
    PowerCut,
    Read,
    Release,
    Restart,
    Resume,
    Rewind,
    Send,
    Settle,
    Speak,
    Work,
    stories,
)
from tests.runtime.machine_puppet import Puppet, Shown
from tests.runtime.machine_stage import Stage
from tests.runtime.machine_turns import check_restart, running
from tests.runtime.machine_valve import InFiles, InMemory, MachineDisk, Valve
from walrus_protocol.content import WhenBusy
from walrus_protocol.events import Durable, decode_row
from walrusd.agent.agent import Agent
from walrusd.runtime.runtime import Runtime

Story = Sequence[Sequence[Order]]
PLAYS = settings.default.max_examples if settings.default else 100
HOURS = pytest.mark.timeout(3 * 3600)
"""For a thorough run. No single story can hang: each wait in it has its own limit."""
IDLE_S = 0.01
"""So short that a session leaves the memory between any two orders that nobody holds it over."""
BUSY = [HealthCheck.too_slow, HealthCheck.data_too_large]


def sends(when_busy: WhenBusy = "queue", key: str | None = None, session: int = 0) -> Send:
    return Send(session=session, when_busy=when_busy, key=key, other=False, timeout_s=None, stream=False)


HOLD = Hold(where="before", steps=0)
WENT_WRONG: dict[str, Story] = {
    "the turn that was left open cannot be ended at once": [
        [sends()],
        [Speak(call=0, does="call tools")],
        [Restart(grace_s=0, failing=True)],
    ],
    "two closes at once": [[Close(session=0, force=True), Close(session=0, force=False)]],
    "the first of two twins goes away": [
        [HOLD],
        [sends(key="k")],
        [sends(), sends(), sends(key="k"), Leave(client=0)],
    ],
    "an interrupt that meets the end of the turn": [
        [sends(), sends(), sends()],
        [Speak(call=0, does="answer"), Interrupt(session=0)],
    ],
    "an interrupt that meets a crash": [[sends()], [Speak(call=0, does="crash"), Interrupt(session=0)]],
    "a turn that opens while the worker of the one before leaves": [
        [sends()],
        [sends(), Interrupt(session=0), sends("reject")],
        [Speak(call=0, does="answer"), sends(key="k")],
    ],
    "a close between the two looks of a message that interrupts": [
        [PowerCut(failing=True, steps=0)],
        [sends()],
        [HOLD],
        [sends()],
        [sends("interrupt"), Close(session=0, force=False)],
    ],
}
CUT = PowerCut(failing=False, steps=0)
FORKS: list[list[Order]] = [[Fork(session=0, at=at)] for at in range(16)]
"""At every point there is, and one that is not."""
RARELY_DRAWN: dict[str, Story] = {
    "a fork that was read is rewound in memory": [
        [Evict(600.0)],
        *([sends()], [Settle()], [Fork(session=0, at=None)], [Read(1)]),
        *([sends(session=1)], [Settle()], [Rewind(session=1, at=0)], [sends(session=1)], [Settle()]),
    ],
    "forks of forks of what is rewound and closed": [
        *([sends()], [Settle()], [Fork(session=0, at=None)]),
        *([sends(session=1)], [Settle()], [Fork(session=1, at=None)]),
        *([sends(session=2)], [Settle()], [Rewind(session=0, at=0)], [Close(session=1, force=False)]),
        *([Fork(session=1, at=None)], [Fork(session=2, at=None)], [CUT], [Read(3), Read(4)]),
    ],
    "every point of a turn with tools, while it runs and after": [
        [sends()],
        [Speak(call=0, does="call tools")],
        [Checkpoint(session=0, name="a"), Rewind(session=0, at=0)],
        [Fork(session=0, at=None)],
        [Fork(session=0, at=3)],
        [Settle()],
        *FORKS,
        [Rewind(session=0, at=5)],
        [Rewind(session=0, at=13)],
        [Rewind(session=0, at=2)],
    ],
    "a message that comes while a session is rewound": [
        *([sends()], [Settle()], [HOLD], [Rewind(session=0, at=0)], [sends(), sends(key="k")], [Release()]),
        *([Settle()], [Rewind(session=0, at=0)], [sends(key="k")]),
    ],
    "two crashes, and then by hand": [[sends()], [CUT], [CUT], [], [Resume(0)], [CUT], [Settle()]],
    "an interrupt that is durable and nobody was told": [
        *([sends()], [Hold(where="after", steps=0)], [Interrupt(session=0)], [CUT], [Settle()]),
    ],
    "a crash while a tool does what cannot be done twice": [
        *([sends()], [Speak(call=0, does="call tools")], [Work(call=0, does="return"), Work(call=1, does="return")]),
        *([CUT], [Settle()]),
    ],
    "a crash in mid-sentence": [[sends()], [Speak(call=0, does="say")], [Pass(0.3)], [CUT], [Settle()]],
}


@pytest.fixture(autouse=True)
def no_log(quiet_log: None) -> None:
    """Turns crash here by order."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class Machine:
    """The lives of one daemon. Raises AssertionError at the first promise that is not kept."""

    def __init__(self, disk: MachineDisk) -> None:
        self._disk = disk
        self._claims = Claims()
        self._ids = count(1)
        self._facts: Facts | None = None
        """As they were at the start of the last life."""
        self._told: list[Durable] = []
        """What it told since."""
        self._shown: list[Shown] = []
        """What models were asked with since."""
        self._crashed = False
        """The power was cut once, or a stop could not be written down."""
        self._cut_off: set[tuple[int | None, int | None]] = set()
        """Session and number of the turns that ran when it was cut."""

    async def play(self, story: Story) -> None:
        moments = [list(moment) for moment in story]
        end: Restart | PowerCut | None = Restart(grace_s=0, failing=False)
        while end:
            end = await self._live(moments, end)
        again = Restart(grace_s=0, failing=False)
        await self._live([[again]], again)
        assert self._told == [], "all had come to its end: there was nothing to recover"

    async def _live(self, moments: list[list[Order]], start: Restart | PowerCut) -> Restart | PowerCut | None:
        """One life: how it ended, None at the end of the story."""
        log = await self._disk.open()
        await self._compare(await Facts.of(log), whole=isinstance(start, Restart))
        puppet = Puppet(self._ids)
        stage = Stage(puppet)
        valve = Valve(log)
        valve.failing = STORAGE["storage_full"] if start.failing else None
        runtime = Runtime(
            puppet,
            stage,
            log=valve,
            max_running_turns=2,
            clock=trio.current_time,
            idle_evict_s=IDLE_S,
            on_restart=start.on_restart,
        )
        runtime.add_agent(Agent(name="walrus", max_iterations=3))
        end: Restart | PowerCut | None = None
        async with runtime, trio.open_nursery() as clients:
            life = Life(self._claims, runtime, valve, puppet, clients)
            try:
                await life.begin()
                end = await life.carry_out(moments)
                if end is None:
                    await life.finish()
            finally:
                if isinstance(end, PowerCut):
                    self._disk.cut()
                    valve.failing = STORAGE["storage_failed"]
                life.end()
                self._told = list(stage.told)
                check_restart(self._told, start.on_restart, crashed=self._crashed, cut_off=self._cut_off)
                self._cut_off = running(self._told) if isinstance(end, PowerCut) else set()
                self._crashed = self._crashed or isinstance(end, PowerCut) or valve.has_failed
                self._shown = list(puppet.shown)
                self._claims.effects += puppet.effects
                self._claims.crashes += puppet.crashes
                valve.release(for_good=True)
        with trio.fail_after(LONG_S):
            await log.aclose()
        return end

    async def _compare(self, facts: Facts, *, whole: bool) -> None:
        """What a life leaves is what it found, and all that it told; after a power cut perhaps a little more."""
        before = self._facts or Facts()
        known = max((row.offset for row in before.in_order()), default=0)
        new = [decode_row(row.body) for row in facts.in_order() if row.offset > known]
        assert self._told == (new if whole else new[: len(self._told)]), "what is told is durable, in its order"
        for session, rows in before.rows.items():
            assert facts.rows[session][: len(rows)] == rows, "nothing is ever changed"
        for session in self._claims.sessions:
            self._claims.check(session, facts.events(session), facts.inboxes[session])
        self._claims.branches.check(facts, self._shown)
        self._claims.check_repeats()
        self._claims.check_effects([facts.events(session) for session in facts.rows])
        self._facts = facts


@pytest.mark.parametrize("story", WENT_WRONG.values(), ids=WENT_WRONG)
def test_what_went_wrong_once_goes_well(story: Story) -> None:
    for _ in range(10):  # each time in another order: trio shuffles what can run
        trio.run(Machine(InMemory()).play, story, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("story", RARELY_DRAWN.values(), ids=RARELY_DRAWN)
def test_what_is_rarely_drawn_goes_well(story: Story) -> None:
    for _ in range(5):
        trio.run(Machine(InMemory()).play, story, clock=trio.testing.MockClock(autojump_threshold=0))


@HOURS
@settings(max_examples=3 * PLAYS, deadline=None, suppress_health_check=BUSY)
@given(stories)
def test_what_was_promised_is_kept_in_memory(story: Story) -> None:
    trio.run(Machine(InMemory()).play, story, clock=trio.testing.MockClock(autojump_threshold=0))


@HOURS
@settings(max_examples=PLAYS // 2, deadline=None, suppress_health_check=BUSY)
@given(stories)
def test_what_was_promised_is_kept_in_files(story: Story) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # A clock that leaps would not wait for the disk.
        trio.run(Machine(InFiles(Path(folder))).play, story, clock=trio.testing.MockClock(rate=1000))
