"""Tests of ActiveConfig: the order of the steps of a reload, its results, and failures that change nothing."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fakes.home import ECHO, Home
from tests.fakes.memory_log import MemoryLog
from tests.fakes.models import open_models_with_spawner
from tests.fakes.service_manager import FakeServiceManager
from walrus_config.load import load
from walrus_config.schema import Config
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import ConfigReloaded, decode
from walrus_protocol.methods.daemon import ReloadResult
from walrus_protocol.problems import Problem
from walrusd.composition.component import ModelProviders, Prepared
from walrusd.composition.reload import ActiveConfig
from walrusd.host.sd_notify import Notify
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.store.errors import StorageFull


class ReloadHarness:
    """An active configuration with the home, the log and the fake service manager that it uses."""

    def __init__(self, home: Home, active: ActiveConfig, log: MemoryLog, manager: FakeServiceManager) -> None:
        self.home = home
        self.active = active
        self.log = log
        self._manager = manager

    def notifications(self) -> list[str]:
        return [message.split("\n")[0] for message in self._manager.read_pending()]

    async def logged_events(self) -> list[object]:
        return [decode(row.body) for row in await self.log.events(DAEMON_SESSION, 0, 100)]


class RecordingComponent:
    """A component that records its steps. Its warning or its error is given by the test."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.stopping = False
        self.prepare_error: Problem | None = None
        self.on_commit: Callable[[], None] = lambda: None
        self.retire_warnings: tuple[str, ...] = ()

    async def prepare(self, config: Config) -> Prepared:
        await trio.lowlevel.checkpoint()
        if self.prepare_error:
            raise self.prepare_error

        def commit() -> None:
            self.calls.append(f"commit {', '.join(sorted(config.agents))}")
            self.on_commit()

        async def retire() -> tuple[str, ...]:
            await trio.lowlevel.checkpoint()
            self.calls.append("retire")
            return self.retire_warnings

        return Prepared(commit=commit, retire=retire)

    def on_event(self, event: ConfigReloaded) -> None:
        self.calls.append("on_event")


@pytest.fixture
def recorder() -> RecordingComponent:
    return RecordingComponent()


@asynccontextmanager
async def open_harness(path: Path, recorder: RecordingComponent) -> AsyncIterator[ReloadHarness]:
    home, log = Home(path / "home", ECHO), MemoryLog()
    config = load(home.path, environ={})
    with FakeServiceManager(path) as manager:
        notify = Notify(manager.address)
        async with open_models_with_spawner(config.providers, config.models) as models:
            active = ActiveConfig(
                (ModelProviders(models).prepare, recorder.prepare),
                config,
                daemon_recorder=await DaemonRecorder.open(log),
                on_event=recorder.on_event,
                notify=notify,
                clock=lambda: 7.0,
                is_stopping=lambda: recorder.stopping,
                environ={},
            )
            await active.start()
            assert recorder.calls == ["commit walrus"]
            recorder.calls.clear()
            yield ReloadHarness(home, active, log, manager)
        notify.close()


@pytest.fixture
async def harness(tmp_path: Path, recorder: RecordingComponent) -> AsyncIterator[ReloadHarness]:
    with trio.fail_after(20):
        async with open_harness(tmp_path, recorder) as harness:
            yield harness


async def test_a_reload_is_logged_before_it_is_applied(harness: ReloadHarness, recorder: RecordingComponent) -> None:
    harness.home.write("agents/scout.md", "You look ahead.")
    harness.home.toml.write_text(ECHO.replace("[daemon]", "[daemon]\nmax_running_turns = 1"))
    assert await harness.active.reload() == ReloadResult(
        changed=("agents.scout",), at_restart=("daemon.max_running_turns",)
    )
    assert recorder.calls == ["on_event", "commit scout, walrus", "retire"]
    assert harness.notifications() == ["RELOADING=1", "READY=1"]
    assert await harness.logged_events() == [
        ConfigReloaded(ts=7.0, changed=("agents.scout",), at_restart=("daemon.max_running_turns",))
    ]


async def test_a_component_that_cannot_finish_leaves_the_config_active_with_a_warning_until_the_next_reload(
    harness: ReloadHarness, recorder: RecordingComponent
) -> None:
    warnings = recorder.retire_warnings = ("Heartbeats still use the previous settings: cannot read the disk",)
    harness.home.write("agents/scout.md", "You look ahead.")
    result = await harness.active.reload()
    assert (result.changed, set(harness.active.config.agents)) == (("agents.scout",), {"scout", "walrus"})
    assert result.warnings == harness.active.warnings == warnings
    assert harness.notifications() == ["RELOADING=1", "READY=1"]
    recorder.retire_warnings = ()
    await harness.active.reload()
    assert not harness.active.warnings


async def test_an_unchanged_config_logs_no_event(harness: ReloadHarness, recorder: RecordingComponent) -> None:
    assert await harness.active.reload() == ReloadResult(changed=())
    assert recorder.calls == ["commit walrus", "retire"]
    assert await harness.logged_events() == []


async def test_a_reload_that_cannot_be_logged_is_not_applied(
    harness: ReloadHarness, recorder: RecordingComponent
) -> None:
    before = harness.active.config
    harness.home.write("agents/scout.md", "You look ahead.")
    harness.log.fail_with = StorageFull("no space")
    with pytest.raises(Problem, match="no space") as problem:
        await harness.active.reload()
    assert (problem.value.kind, recorder.calls, harness.active.config) == ("storage_full", [], before)
    assert harness.notifications() == ["RELOADING=1", "READY=1"]
    harness.log.fail_with = None
    assert (await harness.active.reload()).changed == ("agents.scout",)


async def test_all_config_errors_are_reported_and_change_nothing(
    harness: ReloadHarness, recorder: RecordingComponent
) -> None:
    before = harness.active.config
    prompt = harness.home.write("agents/scout.md", "+++\nmax_iterations = 'x'\n+++\nYou look ahead.")
    with harness.home.with_extra_line("nonsense = 1"), pytest.raises(Problem) as problem:
        await harness.active.reload()
    lines = problem.value.message.split("\n")
    assert problem.value.kind == "config"
    assert [line.split(":")[0] for line in lines] == sorted([str(prompt), str(harness.home.toml)])
    assert (recorder.calls, harness.active.config) == ([], before)
    assert harness.notifications() == ["RELOADING=1", "READY=1"]


async def test_a_component_that_cannot_prepare_leaves_everything_as_it_was(
    harness: ReloadHarness, recorder: RecordingComponent
) -> None:
    before = harness.active.config
    harness.home.write("agents/scout.md", "You look ahead.")
    recorder.prepare_error = Problem("config", "the server does not start")
    with pytest.raises(Problem, match="the server does not start"):
        await harness.active.reload()
    assert (recorder.calls, harness.active.config, await harness.logged_events()) == ([], before, [])


async def test_concurrent_reloads_run_one_after_the_other(harness: ReloadHarness, recorder: RecordingComponent) -> None:
    harness.home.write("agents/scout.md", "You look ahead.")
    results: list[ReloadResult] = []

    async def reload() -> None:
        results.append(await harness.active.reload())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        nursery.start_soon(reload)
    assert results == [ReloadResult(changed=("agents.scout",)), ReloadResult(changed=())]
    assert recorder.calls == ["on_event", *["commit scout, walrus", "retire"] * 2]
    assert harness.notifications() == ["RELOADING=1", "READY=1"] * 2


async def test_sighups_during_a_reload_cause_one_more_reload(
    harness: ReloadHarness, recorder: RecordingComponent
) -> None:
    def request_three_times() -> None:
        recorder.on_commit = lambda: None
        for _ in range(3):
            harness.active.request()

    recorder.on_commit = request_three_times
    async with trio.open_nursery() as nursery:
        nursery.start_soon(harness.active.run)
        await trio.testing.wait_all_tasks_blocked()
        harness.active.request()
        # Each of these waits for the reloads that were requested before it.
        while recorder.calls.count("commit walrus") < 2:
            await trio.testing.wait_all_tasks_blocked()
        await harness.active.reload()
        await harness.active.reload()
        nursery.cancel_scope.cancel()
    assert recorder.calls.count("commit walrus") == 4


async def test_after_a_failed_sighup_reload_the_next_one_runs(
    harness: ReloadHarness, recorder: RecordingComponent
) -> None:
    applied = trio.Event()
    recorder.on_commit = applied.set
    async with trio.open_nursery() as nursery:
        nursery.start_soon(harness.active.run)
        with harness.home.with_extra_line("nonsense = 1"):
            harness.active.request()
            for _ in range(2):  # the requested reload runs between these two
                with pytest.raises(Problem):
                    await harness.active.reload()
        harness.active.request()
        await applied.wait()
        nursery.cancel_scope.cancel()


async def test_a_stopping_daemon_refuses_reloads_and_sends_no_ready(
    harness: ReloadHarness, recorder: RecordingComponent
) -> None:
    recorder.stopping = True
    with pytest.raises(Problem) as problem:
        await harness.active.reload()
    assert (problem.value.kind, harness.notifications()) == ("shutting_down", [])
    recorder.stopping = False

    def stop() -> None:
        recorder.stopping = True

    recorder.on_commit = stop
    await harness.active.reload()
    assert harness.notifications() == ["RELOADING=1"]


async def test_without_a_provider_the_result_has_a_warning(harness: ReloadHarness) -> None:
    harness.home.toml.write_text("")
    [warning] = (await harness.active.reload()).warnings
    assert warning.startswith("No model provider is configured. ")
    harness.home.toml.write_text(ECHO)
    assert (await harness.active.reload()).warnings == ()
