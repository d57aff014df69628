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

from tests.runtime.model_based.archive import Archive
from tests.runtime.model_based.clients import Clients
from tests.runtime.model_based.controllable_store import STORAGE_FAILURES, ControllableStore
from tests.runtime.model_based.daemon_run import LONG_S, DaemonRun
from tests.runtime.model_based.disks import PowerCutDisk, PowerCutFileDisk, PowerCutMemoryDisk
from tests.runtime.model_based.expectations import Expectations
from tests.runtime.model_based.operations import Operation, PowerCut, Restart
from tests.runtime.model_based.recording_hook import RecordingHook
from tests.runtime.model_based.regressions import (
    FIXED_BUGS,
    FORK_DURING_EXPIRY,
    RARE_SCENARIOS,
    SESSION_TURNOVER,
    Scenario,
)
from tests.runtime.model_based.retention_checks import RetentionDriver, check_disk_contents
from tests.runtime.model_based.scripted_model import RecordedPrompt, ScriptedModel
from tests.runtime.model_based.store_contents import StoreContents
from tests.runtime.model_based.strategies import scenarios
from tests.runtime.model_based.turn_checks import check_restart, running_turns
from walrus_protocol.events import AnySessionEvent
from walrusd.agent.agent import Agent
from walrusd.runtime.runtime import Runtime
from walrusd.store.contract import Log

EXAMPLES = settings.default.max_examples if settings.default else 100
LONG_TIMEOUT = pytest.mark.timeout(3 * 3600)
"""For a thorough run. No single story can hang: each wait in it has its own limit."""
IDLE_S = 0.01
"""So short that a session leaves the memory between any two orders that nobody holds it over."""
SUPPRESSED_HEALTH_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def no_log(errors_only_log: None) -> None:
    """Turns crash here by order."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class ScenarioRunner:
    """The lives of one daemon. Raises AssertionError at the first promise that is not kept."""

    def __init__(self, disk: PowerCutDisk) -> None:
        self._disk = disk
        self._archive = Archive()
        self._expectations = Expectations(self._archive)
        self._ids = count(1)
        self._known_offset = 0
        """The last offset before the last life."""
        self._events: list[AnySessionEvent] = []
        """What it told since."""
        self._prompts: list[RecordedPrompt] = []
        """What models were asked with since."""
        self._crashed = False
        """The power was cut once, or a stop could not be written down."""
        self._interrupted_turns: set[tuple[int | None, int | None]] = set()
        """Session and number of the turns that ran when it was cut."""

    async def run(self, scenario: Scenario) -> None:
        moments = [list(moment) for moment in scenario]
        end: Restart | PowerCut | None = Restart(grace_s=0, failing=False)
        while end:
            end = await self._run_once(moments, end)
        again = Restart(grace_s=0, failing=False)
        await self._run_once([[again]], again)
        assert self._events == [], "all had come to its end: there was nothing to recover"

    async def _run_once(self, groups: list[list[Operation]], start: Restart | PowerCut) -> Restart | PowerCut | None:
        """One life: how it ended, None at the end of the story."""
        log = await self._disk.open()
        await self._compare(await StoreContents.read(log), log, stopped_cleanly=isinstance(start, Restart))
        puppet = ScriptedModel(self._ids)
        stage = RecordingHook(puppet)
        valve = ControllableStore(log, self._archive)
        valve.failure = STORAGE_FAILURES["storage_full"] if start.failing else None
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
            clients = Clients(self._expectations, runtime, valve, nursery)
            keeping = RetentionDriver(runtime, valve, on_sessions_expired=clients.on_sessions_expired)
            life = DaemonRun(self._expectations, runtime, valve, puppet, keeping, clients)
            try:
                await life.start()
                end = await life.run(groups)
                if end is None:
                    check_disk_contents(await life.finish(), self._disk.contents(), self._archive)
            finally:
                if isinstance(end, PowerCut):
                    self._disk.cut_power()
                    valve.cut_power()
                clients.stop()
                self._events, self._prompts = list(stage.events), list(puppet.prompts)
                self._expectations.effects += puppet.effects
                self._expectations.crashes += puppet.crashes
                valve.release(for_good=True)
        check_restart(self._events, start.on_restart, crashed=self._crashed, interrupted_turns=self._interrupted_turns)
        self._interrupted_turns = running_turns(self._events) if isinstance(end, PowerCut) else set()
        self._crashed = self._crashed or isinstance(end, PowerCut) or valve.has_failed
        with trio.fail_after(LONG_S):
            await log.aclose()
        return end

    async def _compare(self, contents: StoreContents, log: Log, *, stopped_cleanly: bool) -> None:
        """What a life leaves is what it found, and all that it told; after a power cut perhaps a little more."""
        untold = self._archive.adopt_unreported(contents)
        assert not (stopped_cleanly and untold), "who stops in order has told all"
        new = self._archive.events_since(self._known_offset)
        assert self._events == (new if stopped_cleanly else new[: len(self._events)]), (
            "what is told is durable, in its order"
        )
        self._known_offset = self._archive.last_offset
        self._expectations.check_all(contents, self._archive.histories(), self._prompts)
        await self._expectations.check_exports(log)
        self._expectations.check_repeats()
        self._expectations.check_effects()


@pytest.mark.parametrize("story", FIXED_BUGS.values(), ids=FIXED_BUGS)
def test_fixed_bugs_stay_fixed(story: Scenario) -> None:
    for _ in range(10):  # each time in another order: trio shuffles what can run
        trio.run(ScenarioRunner(PowerCutMemoryDisk()).run, story, clock=trio.testing.MockClock(autojump_threshold=0))


RARE_AND_TURNOVER = RARE_SCENARIOS | SESSION_TURNOVER | FORK_DURING_EXPIRY


@pytest.mark.parametrize("story", RARE_AND_TURNOVER.values(), ids=RARE_AND_TURNOVER)
def test_rarely_generated_scenarios_keep_every_promise(story: Scenario) -> None:
    for _ in range(5):
        trio.run(ScenarioRunner(PowerCutMemoryDisk()).run, story, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("story", SESSION_TURNOVER.values(), ids=SESSION_TURNOVER)
def test_session_turnover_in_files_keeps_every_promise(story: Scenario, tmp_path: Path) -> None:
    trio.run(ScenarioRunner(PowerCutFileDisk(tmp_path)).run, story, clock=trio.testing.MockClock(rate=1000))


@LONG_TIMEOUT
@settings(max_examples=3 * EXAMPLES, deadline=None, suppress_health_check=SUPPRESSED_HEALTH_CHECKS)
@given(scenarios)
def test_random_scenarios_in_memory_keep_every_promise(scenario: Scenario) -> None:
    trio.run(ScenarioRunner(PowerCutMemoryDisk()).run, scenario, clock=trio.testing.MockClock(autojump_threshold=0))


@LONG_TIMEOUT
@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=SUPPRESSED_HEALTH_CHECKS)
@given(scenarios)
def test_random_scenarios_in_files_keep_every_promise(scenario: Scenario) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # A clock that leaps would not wait for the disk.
        trio.run(ScenarioRunner(PowerCutFileDisk(Path(folder))).run, scenario, clock=trio.testing.MockClock(rate=1000))
