"""One reload after the other: what is written before anything changes, what is said, and what leaves all as it was."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fakes.home import ECHO, Home
from tests.fakes.manager import ServiceManager
from tests.fakes.models import models_of
from walrus_config.load import load
from walrus_protocol.events import ConfigReloaded, decode
from walrus_protocol.housekeeping import Reloaded
from walrus_protocol.problems import Problem
from walrusd.host.notify import Notify
from walrusd.reload import InForce, Reload, in_force_with
from walrusd.runtime.facts import DaemonFacts
from walrusd.store.log import DAEMON, StorageFailed, StorageFull
from walrusd.store.memory import MemoryLog


class Desk:
    """A reload, and what it has told to whom."""

    def __init__(self, home: Home, reload: Reload, log: MemoryLog, manager: ServiceManager) -> None:
        self.home = home
        self.reload = reload
        self.log = log
        self._manager = manager

    def told_manager(self) -> list[str]:
        return [message.split("\n")[0] for message in self._manager.waiting()]

    async def facts(self) -> list[object]:
        return [decode(row.body) for row in await self.log.events(DAEMON, 0, 100)]


class Told:
    """In what order what was told."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.stopping = False
        self.when_put: Callable[[], None] = lambda: None
        self.lost: StorageFailed | None = None

    def put(self, now: InForce) -> None:
        self.words.append(f"put {', '.join(sorted(now.config.agents))}")
        self.when_put()

    async def follow(self, now: InForce) -> None:
        await trio.lowlevel.checkpoint()
        self.words.append("follow")
        if self.lost:
            raise self.lost

    def see(self, fact: ConfigReloaded) -> None:
        self.words.append("see")


@pytest.fixture
def told() -> Told:
    return Told()


@asynccontextmanager
async def at_desk(path: Path, told: Told) -> AsyncIterator[Desk]:
    home, log = Home(path / "home", ECHO), MemoryLog()
    config = load(home.path, environ={})
    with ServiceManager(path) as manager:
        notify = Notify(manager.address)
        async with models_of(config.providers, config.models) as models:
            reload = Reload(
                await in_force_with(config, models),
                put=told.put,
                follow=told.follow,
                facts=await DaemonFacts.open(log),
                see=told.see,
                notify=notify,
                clock=lambda: 7.0,
                stopping=lambda: told.stopping,
                environ={},
            )
            yield Desk(home, reload, log, manager)
        notify.close()


@pytest.fixture
async def desk(tmp_path: Path, told: Told) -> AsyncIterator[Desk]:
    with trio.fail_after(20):
        async with at_desk(tmp_path, told) as desk:
            yield desk


async def test_it_is_a_fact_first_and_then_in_force(desk: Desk, told: Told) -> None:
    desk.home.write("agents/scout.md", "You look ahead.")
    desk.home.toml.write_text(ECHO.replace("[daemon]", "[daemon]\nmax_running_turns = 1"))
    assert await desk.reload() == Reloaded(changed=("agents.scout",), at_restart=("daemon.max_running_turns",))
    assert told.words == ["see", "put scout, walrus", "follow"]
    assert desk.told_manager() == ["RELOADING=1", "READY=1"]
    assert await desk.facts() == [
        ConfigReloaded(ts=7.0, changed=("agents.scout",), at_restart=("daemon.max_running_turns",))
    ]


async def test_where_the_heartbeats_cannot_follow_it_is_in_force_and_says_so(desk: Desk, told: Told) -> None:
    told.lost = StorageFailed("cannot read the disk")
    desk.home.write("agents/scout.md", "You look ahead.")
    done = await desk.reload()
    assert (done.changed, set(desk.reload.now.config.agents)) == (("agents.scout",), {"scout", "walrus"})
    assert any("Heartbeats still go by what was before: cannot read the disk" in warning for warning in done.warnings)
    assert desk.told_manager() == ["RELOADING=1", "READY=1"]


async def test_where_nothing_has_changed_nothing_is_written(desk: Desk, told: Told) -> None:
    assert await desk.reload() == Reloaded(changed=())
    assert told.words == ["put walrus", "follow"]
    assert await desk.facts() == []


async def test_what_cannot_be_written_is_not_put_in_force(desk: Desk, told: Told) -> None:
    before = desk.reload.now
    desk.home.write("agents/scout.md", "You look ahead.")
    desk.log.fail_with = StorageFull("no room")
    with pytest.raises(Problem, match="no room") as problem:
        await desk.reload()
    assert (problem.value.kind, told.words, desk.reload.now) == ("storage_full", [], before)
    assert desk.told_manager() == ["RELOADING=1", "READY=1"]
    desk.log.fail_with = None
    assert (await desk.reload()).changed == ("agents.scout",)


async def test_all_that_is_wrong_with_the_files_is_said_and_changes_nothing(desk: Desk, told: Told) -> None:
    before = desk.reload.now
    prompt = desk.home.write("agents/scout.md", "+++\nmax_iterations = 'x'\n+++\nYou look ahead.")
    with desk.home.broken("nonsense = 1"), pytest.raises(Problem) as problem:
        await desk.reload()
    lines = problem.value.message.split("\n")
    assert problem.value.kind == "config"
    assert [line.split(":")[0] for line in lines] == sorted([str(prompt), str(desk.home.toml)])
    assert (told.words, desk.reload.now) == ([], before)
    assert desk.told_manager() == ["RELOADING=1", "READY=1"]


async def test_two_at_a_time_are_one_after_the_other(desk: Desk, told: Told) -> None:
    desk.home.write("agents/scout.md", "You look ahead.")
    answers: list[Reloaded] = []

    async def reload() -> None:
        answers.append(await desk.reload())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        nursery.start_soon(reload)
    assert answers == [Reloaded(changed=("agents.scout",)), Reloaded(changed=())]
    assert told.words == ["see", *["put scout, walrus", "follow"] * 2]
    assert desk.told_manager() == ["RELOADING=1", "READY=1"] * 2


async def test_hups_that_come_during_a_reload_are_one_after_it(desk: Desk, told: Told) -> None:
    def hup_thrice() -> None:
        told.when_put = lambda: None
        for _ in range(3):
            desk.reload.ask()

    told.when_put = hup_thrice
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.reload.when_asked)
        await trio.testing.wait_all_tasks_blocked()
        desk.reload.ask()
        # Each of these waits for its turn behind those that were asked for before.
        while told.words.count("put walrus") < 2:
            await trio.testing.wait_all_tasks_blocked()
        await desk.reload()
        await desk.reload()
        nursery.cancel_scope.cancel()
    assert told.words.count("put walrus") == 4


async def test_a_hup_that_fails_leaves_the_next_to_be_obeyed(desk: Desk, told: Told) -> None:
    put = trio.Event()
    told.when_put = put.set
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.reload.when_asked)
        with desk.home.broken("nonsense = 1"):
            desk.reload.ask()
            for _ in range(2):  # what was asked for is between them
                with pytest.raises(Problem):
                    await desk.reload()
        desk.reload.ask()
        await put.wait()
        nursery.cancel_scope.cancel()


async def test_a_daemon_that_stops_reads_nothing_any_more_and_says_no_ready(desk: Desk, told: Told) -> None:
    told.stopping = True
    with pytest.raises(Problem) as problem:
        await desk.reload()
    assert (problem.value.kind, desk.told_manager()) == ("shutting_down", [])
    told.stopping = False

    def stop() -> None:
        told.stopping = True

    told.when_put = stop
    await desk.reload()
    assert desk.told_manager() == ["RELOADING=1"]


async def test_without_a_provider_the_hint_stands_among_the_warnings(desk: Desk) -> None:
    desk.home.toml.write_text("")
    [warning] = (await desk.reload()).warnings
    assert warning.startswith("No model provider is configured. ")
    desk.home.toml.write_text(ECHO)
    assert (await desk.reload()).warnings == ()
