"""Model-based tests: random scenarios of clients, model, store and power cuts keep every promise.

`--hypothesis-profile=thorough` runs many more. Scenarios consist of operations.py, drawn by strategies.py, with fixed
ones in regressions.py. daemon_run.py and clients.py execute them. The checks are in expectations.py (sends),
fork_rewind_checks.py, export_import_checks.py, retention_checks.py, history_model.py and turn_checks.py (logs),
watcher.py and subscriber.py (streams). archive.py records what was ever durable, store_contents.py reads what exists.
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
"""Time limit for a thorough run. No single scenario can hang: each of its waits has its own limit."""
IDLE_S = 0.01
"""Seconds until eviction; so short that an unused session leaves memory between any two operations."""
SUPPRESSED_HEALTH_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def no_log(errors_only_log: None) -> None:
    """Suppresses the log: turns crash on purpose in these tests."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class ScenarioRunner:
    """Runs one scenario over restarts of the daemon. Raises AssertionError at the first broken promise."""

    def __init__(self, disk: PowerCutDisk) -> None:
        self._disk = disk
        self._archive = Archive()
        self._expectations = Expectations(self._archive)
        self._ids = count(1)
        self._known_offset = 0
        """The last offset before the last run."""
        self._events: list[AnySessionEvent] = []
        """The events that the last run published."""
        self._prompts: list[RecordedPrompt] = []
        """The prompts of the last run."""
        self._crashed = False
        """Whether the power was cut once, or the store failed so that a stop may not be recorded."""
        self._interrupted_turns: set[tuple[int | None, int | None]] = set()
        """Session and number of the turns that were running at the last power cut."""

    async def run(self, scenario: Scenario) -> None:
        groups = [list(group) for group in scenario]
        end: Restart | PowerCut | None = Restart(grace_s=0, failing=False)
        while end:
            end = await self._run_once(groups, end)
        restart = Restart(grace_s=0, failing=False)
        await self._run_once([[restart]], restart)
        assert self._events == [], "everything had ended: there was nothing to recover"

    async def _run_once(self, groups: list[list[Operation]], start: Restart | PowerCut) -> Restart | PowerCut | None:
        """Runs the daemon once; returns what ended the run, or None at the end of the scenario."""
        log = await self._disk.open()
        await self._compare(await StoreContents.read(log), log, stopped_cleanly=isinstance(start, Restart))
        model = ScriptedModel(self._ids)
        hook = RecordingHook(model)
        store = ControllableStore(log, self._archive)
        store.failure = STORAGE_FAILURES["storage_full"] if start.failing else None
        runtime = Runtime(
            model,
            hook,
            log=store,
            max_running_turns=2,
            clock=trio.current_time,
            idle_evict_s=IDLE_S,
            on_restart=start.on_restart,
        )
        runtime.add_agent(Agent(name="walrus", max_iterations=3))
        end: Restart | PowerCut | None = None
        async with runtime, trio.open_nursery() as nursery:
            clients = Clients(self._expectations, runtime, store, nursery)
            retention = RetentionDriver(runtime, store, on_sessions_expired=clients.on_sessions_expired)
            daemon_run = DaemonRun(self._expectations, runtime, store, model, retention, clients)
            try:
                await daemon_run.start()
                end = await daemon_run.run(groups)
                if end is None:
                    check_disk_contents(await daemon_run.finish(), self._disk.contents(), self._archive)
            finally:
                if isinstance(end, PowerCut):
                    self._disk.cut_power()
                    store.cut_power()
                clients.stop()
                self._events, self._prompts = list(hook.events), list(model.prompts)
                self._expectations.effects += model.effects
                self._expectations.crashes += model.crashes
                store.release(for_good=True)
        check_restart(self._events, start.on_restart, crashed=self._crashed, interrupted_turns=self._interrupted_turns)
        self._interrupted_turns = running_turns(self._events) if isinstance(end, PowerCut) else set()
        self._crashed = self._crashed or isinstance(end, PowerCut) or store.has_failed
        with trio.fail_after(LONG_S):
            await log.aclose()
        return end

    async def _compare(self, contents: StoreContents, log: Log, *, stopped_cleanly: bool) -> None:
        """Checks that the store has everything published, and only after a power cut possibly more."""
        unreported = self._archive.adopt_unreported(contents)
        assert not (stopped_cleanly and unreported), "a clean stop leaves nothing unreported"
        new = self._archive.events_since(self._known_offset)
        assert self._events == (new if stopped_cleanly else new[: len(self._events)]), (
            "published events are durable, in the same order"
        )
        self._known_offset = self._archive.last_offset
        self._expectations.check_all(contents, self._archive.histories(), self._prompts)
        await self._expectations.check_exports(log)
        self._expectations.check_repeats()
        self._expectations.check_effects()


@pytest.mark.parametrize("scenario", FIXED_BUGS.values(), ids=FIXED_BUGS)
def test_fixed_bugs_stay_fixed(scenario: Scenario) -> None:
    for _ in range(10):  # in another order each time: trio shuffles the runnable tasks
        trio.run(ScenarioRunner(PowerCutMemoryDisk()).run, scenario, clock=trio.testing.MockClock(autojump_threshold=0))


RARE_AND_TURNOVER = RARE_SCENARIOS | SESSION_TURNOVER | FORK_DURING_EXPIRY


@pytest.mark.parametrize("scenario", RARE_AND_TURNOVER.values(), ids=RARE_AND_TURNOVER)
def test_rarely_generated_scenarios_keep_every_promise(scenario: Scenario) -> None:
    for _ in range(5):
        trio.run(ScenarioRunner(PowerCutMemoryDisk()).run, scenario, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("scenario", SESSION_TURNOVER.values(), ids=SESSION_TURNOVER)
def test_session_turnover_in_files_keeps_every_promise(scenario: Scenario, tmp_path: Path) -> None:
    trio.run(ScenarioRunner(PowerCutFileDisk(tmp_path)).run, scenario, clock=trio.testing.MockClock(rate=1000))


@pytest.mark.slow
@LONG_TIMEOUT
@settings(max_examples=3 * EXAMPLES, deadline=None, suppress_health_check=SUPPRESSED_HEALTH_CHECKS)
@given(scenarios)
def test_random_scenarios_in_memory_keep_every_promise(scenario: Scenario) -> None:
    trio.run(ScenarioRunner(PowerCutMemoryDisk()).run, scenario, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.slow
@LONG_TIMEOUT
@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=SUPPRESSED_HEALTH_CHECKS)
@given(scenarios)
def test_random_scenarios_in_files_keep_every_promise(scenario: Scenario) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # A clock that jumps would not wait for the disk.
        trio.run(ScenarioRunner(PowerCutFileDisk(Path(folder))).run, scenario, clock=trio.testing.MockClock(rate=1000))
