"""A machine that plays stories: whatever clients, model, store and power do, what was promised is kept.

`--hypothesis-profile=thorough` plays many more. What is drawn is in machine_orders.py and machine_draws.py, who acts it
out in machine_life.py and machine_clients.py, what they are held to in machine_claims.py (sends), machine_branches.py
(forks, rewinds, checkpoints), machine_carrier.py (exports, imports), machine_keeping.py (what expires, and what is
left), machine_past.py and machine_turns.py (what a log may say), machine_archive.py and machine_facts.py (what there
was, and what there is), machine_watcher.py and machine_subscriber.py (who follows).
"""

import logging
import tempfile
from itertools import count
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings

from tests.runtime.machine_archive import Archive
from tests.runtime.machine_claims import Claims
from tests.runtime.machine_clients import Clients
from tests.runtime.machine_disks import InFiles, InMemory, MachineDisk
from tests.runtime.machine_draws import stories
from tests.runtime.machine_facts import Facts
from tests.runtime.machine_keeping import Keeping, check_left
from tests.runtime.machine_life import LONG_S, Life
from tests.runtime.machine_orders import Order, PowerCut, Restart
from tests.runtime.machine_puppet import Puppet, Shown
from tests.runtime.machine_stage import Stage
from tests.runtime.machine_stories import COMING_AND_GOING, FORKED_WHILE_IT_GOES, RARELY_DRAWN, WENT_WRONG, Story
from tests.runtime.machine_turns import check_restart, running
from tests.runtime.machine_valve import STORAGE, Valve
from walrus_protocol.events import Durable
from walrusd.agent.agent import Agent
from walrusd.runtime.runtime import Runtime
from walrusd.store.log import Log

PLAYS = settings.default.max_examples if settings.default else 100
HOURS = pytest.mark.timeout(3 * 3600)
"""For a thorough run. No single story can hang: each wait in it has its own limit."""
IDLE_S = 0.01
"""So short that a session leaves the memory between any two orders that nobody holds it over."""
BUSY = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def no_log(quiet_log: None) -> None:
    """Turns crash here by order."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class Machine:
    """The lives of one daemon. Raises AssertionError at the first promise that is not kept."""

    def __init__(self, disk: MachineDisk) -> None:
        self._disk = disk
        self._archive = Archive()
        self._claims = Claims(self._archive)
        self._ids = count(1)
        self._known = 0
        """The last offset before the last life."""
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
        await self._compare(await Facts.of(log), log, whole=isinstance(start, Restart))
        puppet = Puppet(self._ids)
        stage = Stage(puppet)
        valve = Valve(log, self._archive)
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
        async with runtime, trio.open_nursery() as nursery:
            clients = Clients(self._claims, runtime, valve, nursery)
            keeping = Keeping(runtime, valve, see=clients.see)
            life = Life(self._claims, runtime, valve, puppet, keeping, clients)
            try:
                await life.begin()
                end = await life.carry_out(moments)
                if end is None:
                    check_left(await life.finish(), self._disk.left(), self._archive)
            finally:
                if isinstance(end, PowerCut):
                    self._disk.cut()
                    valve.cut()
                clients.end()
                self._told, self._shown = list(stage.told), list(puppet.shown)
                self._claims.effects += puppet.effects
                self._claims.crashes += puppet.crashes
                valve.release(for_good=True)
        check_restart(self._told, start.on_restart, crashed=self._crashed, cut_off=self._cut_off)
        self._cut_off = running(self._told) if isinstance(end, PowerCut) else set()
        self._crashed = self._crashed or isinstance(end, PowerCut) or valve.has_failed
        with trio.fail_after(LONG_S):
            await log.aclose()
        return end

    async def _compare(self, facts: Facts, log: Log, *, whole: bool) -> None:
        """What a life leaves is what it found, and all that it told; after a power cut perhaps a little more."""
        untold = self._archive.find(facts)
        assert not (whole and untold), "who stops in order has told all"
        new = self._archive.told_since(self._known)
        assert self._told == (new if whole else new[: len(self._told)]), "what is told is durable, in its order"
        self._known = self._archive.last_offset
        self._claims.check_all(facts, self._archive.pasts(), self._shown)
        await self._claims.check_carried(log)
        self._claims.check_repeats()
        self._claims.check_effects()


@pytest.mark.parametrize("story", WENT_WRONG.values(), ids=WENT_WRONG)
def test_what_went_wrong_once_goes_well(story: Story) -> None:
    for _ in range(10):  # each time in another order: trio shuffles what can run
        trio.run(Machine(InMemory()).play, story, clock=trio.testing.MockClock(autojump_threshold=0))


RARE = RARELY_DRAWN | COMING_AND_GOING | FORKED_WHILE_IT_GOES


@pytest.mark.parametrize("story", RARE.values(), ids=RARE)
def test_what_is_rarely_drawn_goes_well(story: Story) -> None:
    for _ in range(5):
        trio.run(Machine(InMemory()).play, story, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("story", COMING_AND_GOING.values(), ids=COMING_AND_GOING)
def test_what_comes_and_goes_in_files_goes_well(story: Story, tmp_path: Path) -> None:
    trio.run(Machine(InFiles(tmp_path)).play, story, clock=trio.testing.MockClock(rate=1000))


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
