"""Tests of ConfigReloader: the order of its steps, its results, and failures that change nothing."""

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
from walrus_protocol.events import ConfigReloaded, decode
from walrus_protocol.methods.daemon import ReloadResult
from walrus_protocol.problems import Problem
from walrusd.composition.reload import ActiveConfig, ConfigReloader, build_active_config
from walrusd.host.sd_notify import Notify
from walrusd.runtime.recording.daemon_events import DaemonRecorder
from walrusd.store.contract import DAEMON_SESSION, StorageFailed, StorageFull


class ReloaderHarness:
    """A reloader with the home, the log and the fake service manager that it uses."""

    def __init__(self, home: Home, reloader: ConfigReloader, log: MemoryLog, manager: FakeServiceManager) -> None:
        self.home = home
        self.reloader = reloader
        self.log = log
        self._manager = manager

    def notifications(self) -> list[str]:
        return [message.split("\n")[0] for message in self._manager.read_pending()]

    async def logged_events(self) -> list[object]:
        return [decode(row.body) for row in await self.log.events(DAEMON_SESSION, 0, 100)]


class ReloadRecorder:
    """Records the calls of the reloader's callbacks in their order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.stopping = False
        self.on_apply: Callable[[], None] = lambda: None
        self.after_apply_error: StorageFailed | None = None

    def apply(self, active: ActiveConfig) -> None:
        self.calls.append(f"apply {', '.join(sorted(active.config.agents))}")
        self.on_apply()

    async def after_apply(self, active: ActiveConfig) -> None:
        await trio.lowlevel.checkpoint()
        self.calls.append("after_apply")
        if self.after_apply_error:
            raise self.after_apply_error

    def on_event(self, event: ConfigReloaded) -> None:
        self.calls.append("on_event")


@pytest.fixture
def recorder() -> ReloadRecorder:
    return ReloadRecorder()


@asynccontextmanager
async def open_harness(path: Path, recorder: ReloadRecorder) -> AsyncIterator[ReloaderHarness]:
    home, log = Home(path / "home", ECHO), MemoryLog()
    config = load(home.path, environ={})
    with FakeServiceManager(path) as manager:
        notify = Notify(manager.address)
        async with open_models_with_spawner(config.providers, config.models) as models:
            reloader = ConfigReloader(
                await build_active_config(config, models),
                apply=recorder.apply,
                after_apply=recorder.after_apply,
                daemon_recorder=await DaemonRecorder.open(log),
                on_event=recorder.on_event,
                notify=notify,
                clock=lambda: 7.0,
                is_stopping=lambda: recorder.stopping,
                environ={},
            )
            yield ReloaderHarness(home, reloader, log, manager)
        notify.close()


@pytest.fixture
async def harness(tmp_path: Path, recorder: ReloadRecorder) -> AsyncIterator[ReloaderHarness]:
    with trio.fail_after(20):
        async with open_harness(tmp_path, recorder) as harness:
            yield harness


async def test_a_reload_is_logged_before_it_is_applied(harness: ReloaderHarness, recorder: ReloadRecorder) -> None:
    harness.home.write("agents/scout.md", "You look ahead.")
    harness.home.toml.write_text(ECHO.replace("[daemon]", "[daemon]\nmax_running_turns = 1"))
    assert await harness.reloader() == ReloadResult(changed=("agents.scout",), at_restart=("daemon.max_running_turns",))
    assert recorder.calls == ["on_event", "apply scout, walrus", "after_apply"]
    assert harness.notifications() == ["RELOADING=1", "READY=1"]
    assert await harness.logged_events() == [
        ConfigReloaded(ts=7.0, changed=("agents.scout",), at_restart=("daemon.max_running_turns",))
    ]


async def test_if_heartbeats_cannot_be_reloaded_the_config_is_active_with_a_warning(
    harness: ReloaderHarness, recorder: ReloadRecorder
) -> None:
    recorder.after_apply_error = StorageFailed("cannot read the disk")
    harness.home.write("agents/scout.md", "You look ahead.")
    result = await harness.reloader()
    assert (result.changed, set(harness.reloader.active.config.agents)) == (("agents.scout",), {"scout", "walrus"})
    assert any(
        "Heartbeats still use the previous settings: cannot read the disk" in warning for warning in result.warnings
    )
    assert harness.notifications() == ["RELOADING=1", "READY=1"]


async def test_an_unchanged_config_logs_no_event(harness: ReloaderHarness, recorder: ReloadRecorder) -> None:
    assert await harness.reloader() == ReloadResult(changed=())
    assert recorder.calls == ["apply walrus", "after_apply"]
    assert await harness.logged_events() == []


async def test_a_reload_that_cannot_be_logged_is_not_applied(
    harness: ReloaderHarness, recorder: ReloadRecorder
) -> None:
    before = harness.reloader.active
    harness.home.write("agents/scout.md", "You look ahead.")
    harness.log.fail_with = StorageFull("no space")
    with pytest.raises(Problem, match="no space") as problem:
        await harness.reloader()
    assert (problem.value.kind, recorder.calls, harness.reloader.active) == ("storage_full", [], before)
    assert harness.notifications() == ["RELOADING=1", "READY=1"]
    harness.log.fail_with = None
    assert (await harness.reloader()).changed == ("agents.scout",)


async def test_all_config_errors_are_reported_and_change_nothing(
    harness: ReloaderHarness, recorder: ReloadRecorder
) -> None:
    before = harness.reloader.active
    prompt = harness.home.write("agents/scout.md", "+++\nmax_iterations = 'x'\n+++\nYou look ahead.")
    with harness.home.with_extra_line("nonsense = 1"), pytest.raises(Problem) as problem:
        await harness.reloader()
    lines = problem.value.message.split("\n")
    assert problem.value.kind == "config"
    assert [line.split(":")[0] for line in lines] == sorted([str(prompt), str(harness.home.toml)])
    assert (recorder.calls, harness.reloader.active) == ([], before)
    assert harness.notifications() == ["RELOADING=1", "READY=1"]


async def test_concurrent_reloads_run_one_after_the_other(harness: ReloaderHarness, recorder: ReloadRecorder) -> None:
    harness.home.write("agents/scout.md", "You look ahead.")
    results: list[ReloadResult] = []

    async def reload() -> None:
        results.append(await harness.reloader())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        nursery.start_soon(reload)
    assert results == [ReloadResult(changed=("agents.scout",)), ReloadResult(changed=())]
    assert recorder.calls == ["on_event", *["apply scout, walrus", "after_apply"] * 2]
    assert harness.notifications() == ["RELOADING=1", "READY=1"] * 2


async def test_sighups_during_a_reload_cause_one_more_reload(
    harness: ReloaderHarness, recorder: ReloadRecorder
) -> None:
    def request_three_times() -> None:
        recorder.on_apply = lambda: None
        for _ in range(3):
            harness.reloader.request()

    recorder.on_apply = request_three_times
    async with trio.open_nursery() as nursery:
        nursery.start_soon(harness.reloader.run)
        await trio.testing.wait_all_tasks_blocked()
        harness.reloader.request()
        # Each of these waits for the reloads that were requested before it.
        while recorder.calls.count("apply walrus") < 2:
            await trio.testing.wait_all_tasks_blocked()
        await harness.reloader()
        await harness.reloader()
        nursery.cancel_scope.cancel()
    assert recorder.calls.count("apply walrus") == 4


async def test_after_a_failed_sighup_reload_the_next_one_runs(
    harness: ReloaderHarness, recorder: ReloadRecorder
) -> None:
    applied = trio.Event()
    recorder.on_apply = applied.set
    async with trio.open_nursery() as nursery:
        nursery.start_soon(harness.reloader.run)
        with harness.home.with_extra_line("nonsense = 1"):
            harness.reloader.request()
            for _ in range(2):  # the requested reload runs between these two
                with pytest.raises(Problem):
                    await harness.reloader()
        harness.reloader.request()
        await applied.wait()
        nursery.cancel_scope.cancel()


async def test_a_stopping_daemon_refuses_reloads_and_sends_no_ready(
    harness: ReloaderHarness, recorder: ReloadRecorder
) -> None:
    recorder.stopping = True
    with pytest.raises(Problem) as problem:
        await harness.reloader()
    assert (problem.value.kind, harness.notifications()) == ("shutting_down", [])
    recorder.stopping = False

    def stop() -> None:
        recorder.stopping = True

    recorder.on_apply = stop
    await harness.reloader()
    assert harness.notifications() == ["RELOADING=1"]


async def test_without_a_provider_the_result_has_a_warning(harness: ReloaderHarness) -> None:
    harness.home.toml.write_text("")
    [warning] = (await harness.reloader()).warnings
    assert warning.startswith("No model provider is configured. ")
    harness.home.toml.write_text(ECHO)
    assert (await harness.reloader()).warnings == ()
