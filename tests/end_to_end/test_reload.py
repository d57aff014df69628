"""Tests of `daemon.reload`.

New turns use the changed walrus.toml and prompts; running turns keep the old ones.
"""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fakes.home import MAX_WAIT_S, Home, WalrusdProcess
from tests.fakes.provider import FakeProvider, calls_tools, open_provider, replies
from tests.fakes.service_manager import FakeServiceManager
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.client import RequestFailed
from walrus_protocol.events import ToolResult
from walrus_protocol.methods import AttachParams, CreateParams, SendParams, TurnResult
from walrus_protocol.methods.daemon import ReloadResult

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


class DaemonReloadHarness:
    """A daemon with one agent, and the fake provider of its model."""

    def __init__(self, home: Home, daemon: WalrusdProcess, client: AsyncClient, provider: FakeProvider) -> None:
        self.home = home
        self.daemon = daemon
        self.client = client
        self.provider = provider

    def edit(self, old: str, new: str) -> None:
        text = self.home.toml.read_text()
        assert old in text
        self.home.write("walrus.toml", text.replace(old, new))

    async def create_session(self, agent: str = "reader") -> int:
        return (await self.client.create(CreateParams(agent=agent))).session

    async def send(self, session: int) -> TurnResult:
        return await self.client.send(SendParams(session=session, content="go on"))

    async def results(self, session: int) -> list[ToolResult]:
        async with self.client.attach(AttachParams(session=session, follow=False)) as events:
            return [event async for event in events if isinstance(event, ToolResult)]

    def system_prompt(self, index: int) -> str:
        """Returns the system prompt of the request with this index."""
        return str(self.provider.requests[index].messages[0]["content"])


@asynccontextmanager
async def open_harness(path: Path, environ: dict[str, str] | None = None) -> AsyncIterator[DaemonReloadHarness]:
    with trio.fail_after(MAX_WAIT_S):
        async with open_provider() as provider:
            home = Home(path / "home", TOML.format(url=provider.url))
            home.write("fake.key", KEY)
            home.write("agents/reader.md", "You are the old one.")
            home.write("workspace/notes.txt", "a line")
            with home.walrusd(environ=environ) as daemon:
                async with connect(daemon.socket) as client:
                    yield DaemonReloadHarness(home, daemon, client, provider)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[DaemonReloadHarness]:
    async with open_harness(tmp_path) as harness:
        yield harness


async def test_the_next_turn_uses_the_new_prompt_and_the_running_one_keeps_the_old(
    harness: DaemonReloadHarness,
) -> None:
    go_on = trio.Event()
    harness.provider.enqueue(replies(["one"], gate=[go_on]), replies("two"))
    session = await harness.create_session()
    turns: list[TurnResult] = []

    async def send() -> None:
        turns.append(await harness.send(session))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await harness.provider.wait_until(lambda fake: len(fake.requests) == 1)
        harness.home.write("agents/reader.md", "You are the new one.")
        assert await harness.client.reload() == ReloadResult(changed=("agents.reader.system_prompt",))
        go_on.set()
    turns.append(await harness.send(session))
    assert [turn.text for turn in turns] == ["one", "two"]
    assert "the old one" in harness.system_prompt(0)
    assert "the new one" in harness.system_prompt(1)
    assert "the old one" not in harness.system_prompt(1)


async def test_a_running_turn_keeps_its_prompt_and_permissions_in_all_its_rounds(harness: DaemonReloadHarness) -> None:
    go_on = trio.Event()
    reads = ("read", {"path": "notes.txt"})
    harness.provider.enqueue(
        replies(["Let me see."], calls=[reads], gate=[go_on]), replies("one"), calls_tools(reads), replies("two")
    )
    session = await harness.create_session()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(harness.send, session)
        await harness.provider.wait_until(lambda fake: len(fake.requests) == 1)
        harness.edit('allow = ["read"]', 'deny = ["read"]')
        harness.home.write("agents/reader.md", "You are the new one.")
        assert await harness.client.reload() == ReloadResult(
            changed=("agents.reader.system_prompt", "permissions.allow", "permissions.deny")
        )
        go_on.set()
    await harness.send(session)
    assert [(result.outcome, result.rule) for result in await harness.results(session)] == [
        ("ok", None),
        ("denied", "permissions.deny: read"),
    ]
    assert [("old" in harness.system_prompt(n), "new" in harness.system_prompt(n)) for n in range(4)] == [
        (True, False)
    ] * 2 + [(False, True)] * 2


async def test_a_tool_that_is_disabled_is_no_longer_offered(harness: DaemonReloadHarness) -> None:
    harness.provider.set_default(replies("ok"))
    session = await harness.create_session()
    await harness.send(session)
    harness.home.write("walrus.toml", f"{harness.home.toml.read_text()}[tools.read]\nenabled = false\n")
    assert (await harness.client.reload()).changed == ("tools.read",)
    await harness.send(session)
    assert ["tools" in request.body for request in harness.provider.requests] == [True, False]


async def test_an_agent_can_be_added_removed_and_added_again(harness: DaemonReloadHarness) -> None:
    harness.provider.set_default(replies("ok"))
    with pytest.raises(RequestFailed, match="no agent named 'scout'"):
        await harness.create_session("scout")
    harness.home.write("agents/scout.md", "You look ahead.")
    assert (await harness.client.reload()).changed == ("agents.scout",)
    session = await harness.create_session("scout")
    assert (await harness.send(session)).text == "ok"
    (harness.home.path / "agents" / "scout.md").unlink()
    assert (await harness.client.reload()).changed == ("agents.scout",)
    assert [agent.name for agent in (await harness.client.agents()).agents] == ["walrus", "reader"]
    with pytest.raises(RequestFailed, match="no agent named 'scout'"):
        await harness.send(session)
    harness.home.write("agents/scout.md", "You look ahead again.")
    await harness.client.reload()
    assert (await harness.send(session)).text == "ok"
    assert "ahead again" in harness.system_prompt(1)


async def test_a_new_api_key_is_used_at_once_and_no_key_is_shown(harness: DaemonReloadHarness) -> None:
    harness.edit("[daemon]\n", '[daemon]\nlog_level = "debug"\n')
    await harness.client.reload()
    harness.provider.set_default(replies("ok"))
    session = await harness.create_session()
    await harness.send(session)
    harness.home.write("fake.key", NEW_KEY)
    assert await harness.client.reload() == ReloadResult(changed=("providers.fake.api_key",))
    await harness.send(session)
    assert [request.headers["authorization"] for request in harness.provider.requests] == [
        f"Bearer {KEY}",
        f"Bearer {NEW_KEY}",
    ]
    shown = [harness.daemon.stderr, repr(await harness.client.config()), repr(await harness.client.status())]
    shown += [path.read_bytes().decode(errors="replace") for path in harness.home.path.glob("walrus.db*")]
    assert not [text for text in shown if KEY in text or NEW_KEY in text]


async def test_an_invalid_file_changes_nothing_and_is_reported_with_its_line(harness: DaemonReloadHarness) -> None:
    before = await harness.client.config()
    harness.home.write("agents/reader.md", "You are the new one.")
    harness.provider.set_default(replies("ok"))
    with harness.home.with_extra_line("allow = [3"):
        line = harness.home.toml.read_text().count("\n")
        with pytest.raises(RequestFailed) as refused:
            await harness.client.reload()
        assert (refused.value.kind, refused.value.code) == ("config", -32011)
        assert refused.value.message.startswith(f"{harness.home.toml}:{line}")
        assert await harness.client.config() == before
        await harness.send(await harness.create_session())
        assert "the old one" in harness.system_prompt(0)
    assert (await harness.client.reload()).changed == ("agents.reader.system_prompt",)


async def test_config_keys_that_need_a_restart_are_named_and_stay_unchanged(harness: DaemonReloadHarness) -> None:
    harness.edit("[daemon]\n", '[daemon]\nmax_running_turns = 7\nidle_evict_s = 60\nsocket = "elsewhere"\n')
    expected = ReloadResult(changed=("daemon.idle_evict_s",), at_restart=("daemon.max_running_turns", "daemon.socket"))
    assert await harness.client.reload() == expected
    daemon = (await harness.client.config()).config["daemon"]
    assert isinstance(daemon, dict)
    assert (daemon["max_running_turns"], daemon["idle_evict_s"], daemon["socket"]) == (64, 60, "")
    assert (await harness.client.reload()).at_restart == expected.at_restart


async def test_a_reload_changes_the_log_level(harness: DaemonReloadHarness) -> None:
    harness.edit("[daemon]\n", '[daemon]\nlog_level = "error"\n')
    await harness.client.reload()
    await harness.client.agents()
    harness.edit('log_level = "error"', 'log_level = "debug"')
    await harness.client.reload()
    await harness.client.ping()
    await harness.daemon.wait_for_async(
        lambda daemon: any(line.get("method") == "daemon.ping" for line in daemon.log_lines)
    )
    assert [line["method"] for line in harness.daemon.lines_of("request")] == ["daemon.reload", "daemon.ping"]


async def test_a_warning_appears_and_disappears_with_its_cause(harness: DaemonReloadHarness) -> None:
    harness.edit('description = "Reads"', 'description = "Reads"\nworkspace = "work"')
    [warning] = (await harness.client.reload()).warnings
    assert "there is no folder" in warning
    assert (await harness.client.status()).warnings == (warning,)
    assert [line["message"] for line in harness.daemon.log_lines if line.get("level") == "warning"] == [warning]
    (harness.home.path / "work").mkdir()
    assert await harness.client.reload() == ReloadResult(changed=())
    assert (await harness.client.status()).warnings == ()


async def test_a_sighup_reloads_and_notifies_the_service_manager(tmp_path: Path) -> None:
    with FakeServiceManager(tmp_path) as manager:
        async with open_harness(tmp_path, manager.environ()) as harness:
            manager.wait_for("READY=1")
            harness.home.write("agents/reader.md", "You are the new one.")
            harness.daemon.signal(signal.SIGHUP)
            await harness.daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("reloaded")))
            [line] = harness.daemon.lines_of("reloaded")
            assert (line["changed"], line["at_restart"]) == (["agents.reader.system_prompt"], [])
            notified = [line for line in manager.wait_for("READY=1") if not line.startswith(("STATUS", "MONOTONIC"))]
            assert notified == ["RELOADING=1", "READY=1"]
            harness.provider.set_default(replies("ok"))
            await harness.send(await harness.create_session())
            assert "the new one" in harness.system_prompt(0)
            with harness.home.with_extra_line("nonsense = 1") as at:
                harness.daemon.signal(signal.SIGHUP)
                await harness.daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("reload_failed")))
                [line] = harness.daemon.lines_of("reload_failed")
                assert line["level"] == "error"
                assert line["error"].startswith(f"{at.rpartition(':')[0]}:")
                [warning] = (await harness.client.status()).warnings
                assert warning.startswith(
                    f"The last reload failed, and the old configuration is active: {at.rpartition(':')[0]}"
                )
            await harness.client.reload()
            assert (await harness.client.status()).warnings == ()
            assert [line.split("=")[0] for line in manager.wait_for("READY=1")][:1] == ["RELOADING"]


def test_the_command_reports_changes_and_keys_that_need_a_restart(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.walrusd() as daemon:
        assert (home.walrusctl("reload").stdout, daemon.lines_of("reloaded")[0]["changed"]) == (
            "no changes\n",
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
        with home.with_extra_line("max_iterations = 3"):
            bad = home.walrusctl("reload")
        line = home.toml.read_text().count("\n") + 1
        assert (bad.returncode, bad.stdout) == (2, "")
        assert bad.stderr.startswith(f"walrusctl: {home.toml}:{line}: ")
        assert "hint: Fix it and reload again" in bad.stderr
