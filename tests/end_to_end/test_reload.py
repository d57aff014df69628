"""walrus.toml and prompts that change while walrusd runs: what comes next has the new ones, what runs the old."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fakes.home import PATIENCE_S, Home, Walrusd
from tests.fakes.manager import ServiceManager
from tests.fakes.provider import FakeProvider, calls, open_provider, says
from walrus_protocol.aclient import Client, connect
from walrus_protocol.client import RequestFailed
from walrus_protocol.events import ToolResult
from walrus_protocol.housekeeping import Reloaded
from walrus_protocol.methods import AttachParams, CreateParams, SendParams, TurnResult

KEY, NEW_KEY = "sk-the-first-of-its-keys", "sk-the-second-of-its-keys"
TOML = """
[daemon]
shutdown_grace_s = 0.1
[defaults]
model = "fake"
[providers.fake]
kind = "openai"
base_url = "{url}"
api_key_file = "fake.key"
models = ["fake"]
max_retries = 0
[permissions]
allow = ["read"]
[agents.reader]
description = "Reads"
"""


class Stage:
    """A daemon with one agent, and the provider that speaks for it."""

    def __init__(self, home: Home, daemon: Walrusd, client: Client, provider: FakeProvider) -> None:
        self.home = home
        self.daemon = daemon
        self.client = client
        self.provider = provider

    def edit(self, old: str, new: str) -> None:
        text = self.home.toml.read_text()
        assert old in text
        self.home.write("walrus.toml", text.replace(old, new))

    async def session(self, agent: str = "reader") -> int:
        return (await self.client.create(CreateParams(agent=agent))).session

    async def send(self, session: int) -> TurnResult:
        return await self.client.send(SendParams(session=session, content="go on"))

    async def results(self, session: int) -> list[ToolResult]:
        async with self.client.attach(AttachParams(session=session, follow=False)) as events:
            return [event async for event in events if isinstance(event, ToolResult)]

    def told(self, request: int) -> str:
        """The system prompt of a request."""
        return str(self.provider.requests[request].messages[0]["content"])


@asynccontextmanager
async def staged(path: Path, environ: dict[str, str] | None = None) -> AsyncIterator[Stage]:
    with trio.fail_after(PATIENCE_S):
        async with open_provider() as provider:
            home = Home(path / "home", TOML.format(url=provider.url))
            home.write("fake.key", KEY)
            home.write("agents/reader.md", "You are the old one.")
            home.write("workspace/notes.txt", "a line")
            with home.walrusd(environ=environ) as daemon:
                async with connect(daemon.socket) as client:
                    yield Stage(home, daemon, client, provider)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as stage:
        yield stage


async def test_the_next_turn_has_the_new_prompt_and_the_running_one_keeps_the_old(stage: Stage) -> None:
    go_on = trio.Event()
    stage.provider.will(says(["one"], gate=[go_on]), says("two"))
    session = await stage.session()
    turns: list[TurnResult] = []

    async def talk() -> None:
        turns.append(await stage.send(session))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk)
        await stage.provider.until(lambda fake: len(fake.requests) == 1)
        stage.home.write("agents/reader.md", "You are the new one.")
        assert await stage.client.reload() == Reloaded(changed=("agents.reader.system_prompt",))
        go_on.set()
    turns.append(await stage.send(session))
    assert [turn.text for turn in turns] == ["one", "two"]
    assert "the old one" in stage.told(0)
    assert "the new one" in stage.told(1)
    assert "the old one" not in stage.told(1)


async def test_a_running_turn_keeps_its_prompt_and_its_permission_over_its_rounds(stage: Stage) -> None:
    go_on = trio.Event()
    reads = ("read", {"path": "notes.txt"})
    stage.provider.will(says(["Let me see."], calls=[reads], gate=[go_on]), says("one"), calls(reads), says("two"))
    session = await stage.session()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.send, session)
        await stage.provider.until(lambda fake: len(fake.requests) == 1)
        stage.edit('allow = ["read"]', 'deny = ["read"]')
        stage.home.write("agents/reader.md", "You are the new one.")
        assert await stage.client.reload() == Reloaded(
            changed=("agents.reader.system_prompt", "permissions.allow", "permissions.deny")
        )
        go_on.set()
    await stage.send(session)
    assert [(result.outcome, result.rule) for result in await stage.results(session)] == [
        ("ok", None),
        ("denied", "permissions.deny: read"),
    ]
    assert [("old" in stage.told(n), "new" in stage.told(n)) for n in range(4)] == [(True, False)] * 2 + [
        (False, True)
    ] * 2


async def test_a_tool_that_is_switched_off_is_offered_no_more(stage: Stage) -> None:
    stage.provider.always(says("ok"))
    session = await stage.session()
    await stage.send(session)
    stage.home.write("walrus.toml", f"{stage.home.toml.read_text()}[tools.read]\nenabled = false\n")
    assert (await stage.client.reload()).changed == ("tools.read",)
    await stage.send(session)
    assert ["tools" in request.body for request in stage.provider.requests] == [True, False]


async def test_an_agent_appears_changes_goes_and_comes_back(stage: Stage) -> None:
    stage.provider.always(says("ok"))
    with pytest.raises(RequestFailed, match="no agent named 'scout'"):
        await stage.session("scout")
    stage.home.write("agents/scout.md", "You look ahead.")
    assert (await stage.client.reload()).changed == ("agents.scout",)
    session = await stage.session("scout")
    assert (await stage.send(session)).text == "ok"
    (stage.home.path / "agents" / "scout.md").unlink()
    assert (await stage.client.reload()).changed == ("agents.scout",)
    assert [agent.name for agent in (await stage.client.agents()).agents] == ["walrus", "reader"]
    with pytest.raises(RequestFailed, match="no agent named 'scout'"):
        await stage.send(session)
    stage.home.write("agents/scout.md", "You look ahead again.")
    await stage.client.reload()
    assert (await stage.send(session)).text == "ok"
    assert "ahead again" in stage.told(1)


async def test_a_new_key_is_used_next_and_neither_is_shown_anywhere(stage: Stage) -> None:
    stage.edit("[daemon]\n", '[daemon]\nlog_level = "debug"\n')
    await stage.client.reload()
    stage.provider.always(says("ok"))
    session = await stage.session()
    await stage.send(session)
    stage.home.write("fake.key", NEW_KEY)
    assert await stage.client.reload() == Reloaded(changed=("providers.fake.api_key",))
    await stage.send(session)
    assert [request.headers["authorization"] for request in stage.provider.requests] == [
        f"Bearer {KEY}",
        f"Bearer {NEW_KEY}",
    ]
    shown = [stage.daemon.stderr, repr(await stage.client.config()), repr(await stage.client.status())]
    shown += [path.read_bytes().decode(errors="replace") for path in stage.home.path.glob("walrus.db*")]
    assert not [text for text in shown if KEY in text or NEW_KEY in text]


async def test_a_bad_file_changes_nothing_and_is_named_with_its_line(stage: Stage) -> None:
    before = await stage.client.config()
    stage.home.write("agents/reader.md", "You are the new one.")
    stage.provider.always(says("ok"))
    with stage.home.broken("allow = [3"):
        line = stage.home.toml.read_text().count("\n")
        with pytest.raises(RequestFailed) as refused:
            await stage.client.reload()
        assert (refused.value.kind, refused.value.code) == ("config", -32011)
        assert refused.value.message.startswith(f"{stage.home.toml}:{line}")
        assert await stage.client.config() == before
        await stage.send(await stage.session())
        assert "the old one" in stage.told(0)
    assert (await stage.client.reload()).changed == ("agents.reader.system_prompt",)


async def test_what_only_a_new_start_can_change_is_named_and_stays_as_it_is(stage: Stage) -> None:
    stage.edit("[daemon]\n", '[daemon]\nmax_running_turns = 7\nidle_evict_s = 60\nsocket = "elsewhere"\n')
    told = Reloaded(changed=("daemon.idle_evict_s",), at_restart=("daemon.max_running_turns", "daemon.socket"))
    assert await stage.client.reload() == told
    daemon = (await stage.client.config()).config["daemon"]
    assert isinstance(daemon, dict)
    assert (daemon["max_running_turns"], daemon["idle_evict_s"], daemon["socket"]) == (64, 60, "")
    assert (await stage.client.reload()).at_restart == told.at_restart


async def test_the_level_of_the_log_follows(stage: Stage) -> None:
    stage.edit("[daemon]\n", '[daemon]\nlog_level = "error"\n')
    await stage.client.reload()
    await stage.client.agents()
    stage.edit('log_level = "error"', 'log_level = "debug"')
    await stage.client.reload()
    await stage.client.ping()
    await stage.daemon.until(lambda daemon: any(line.get("method") == "daemon.ping" for line in daemon.log))
    assert [line["method"] for line in stage.daemon.lines("request")] == ["daemon.reload", "daemon.ping"]


async def test_a_warning_comes_and_goes_with_what_it_warns_of(stage: Stage) -> None:
    stage.edit('description = "Reads"', 'description = "Reads"\nworkspace = "work"')
    [warning] = (await stage.client.reload()).warnings
    assert "there is no folder" in warning
    assert (await stage.client.status()).warnings == (warning,)
    assert [line["event"] for line in stage.daemon.log if line.get("level") == "warning"] == [warning]
    (stage.home.path / "work").mkdir()
    assert await stage.client.reload() == Reloaded(changed=())
    assert (await stage.client.status()).warnings == ()


async def test_a_hup_does_the_same_and_the_service_manager_is_told(tmp_path: Path) -> None:
    with ServiceManager(tmp_path) as manager:
        async with staged(tmp_path, manager.environ()) as stage:
            manager.wait_for("READY=1")
            stage.home.write("agents/reader.md", "You are the new one.")
            stage.daemon.signal(signal.SIGHUP)
            await stage.daemon.until(lambda daemon: bool(daemon.lines("reloaded")))
            [line] = stage.daemon.lines("reloaded")
            assert (line["changed"], line["at_restart"]) == (["agents.reader.system_prompt"], [])
            said = [word for word in manager.wait_for("READY=1") if not word.startswith(("STATUS", "MONOTONIC"))]
            assert said == ["RELOADING=1", "READY=1"]
            stage.provider.always(says("ok"))
            await stage.send(await stage.session())
            assert "the new one" in stage.told(0)
            with stage.home.broken("nonsense = 1") as at:
                stage.daemon.signal(signal.SIGHUP)
                await stage.daemon.until(lambda daemon: bool(daemon.lines("not reloaded")))
                [line] = stage.daemon.lines("not reloaded")
                assert line["level"] == "error"
                assert line["error"].startswith(f"{at.rpartition(':')[0]}:")
                [warning] = (await stage.client.status()).warnings
                assert warning.startswith(f"The last reload was refused, and all is as before: {at.rpartition(':')[0]}")
            await stage.client.reload()
            assert (await stage.client.status()).warnings == ()
            assert [word.split("=")[0] for word in manager.wait_for("READY=1")][:1] == ["RELOADING"]


def test_the_command_says_what_has_changed_and_what_waits(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.walrusd() as daemon:
        assert (home.walrusctl("reload").stdout, daemon.lines("reloaded")[0]["changed"]) == (
            "nothing has changed\n",
            [],
        )
        home.write("agents/scout.md", "You look ahead.")
        home.toml.write_text(home.toml.read_text().replace("[daemon]", "[daemon]\nmax_connections = 100"))
        ran = home.walrusctl("reload")
        assert (ran.returncode, ran.stdout, ran.stderr) == (
            0,
            "changed: agents.scout\nat restart: daemon.max_connections\n",
            "",
        )
        home.write("agents/scout.md", "You look further.")
        assert json.loads(home.walrusctl("reload", "--json").stdout) == {
            "changed": ["agents.scout.system_prompt"],
            "at_restart": ["daemon.max_connections"],
            "warnings": [],
        }
        with home.broken("max_iterations = 3"):
            bad = home.walrusctl("reload")
        line = home.toml.read_text().count("\n") + 1
        assert (bad.returncode, bad.stdout) == (2, "")
        assert bad.stderr.startswith(f"walrusctl: {home.toml}:{line}: ")
        assert "hint: Mend it" in bad.stderr
