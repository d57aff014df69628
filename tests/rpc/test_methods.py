"""Tests that call every method once: the answer has exactly the format of the protocol."""

import json
from pathlib import Path

import msgspec
import pytest
from msgspec import convert
from prometheus_client.parser import text_string_to_metric_families

import walrusd
from tests.fakes.home import Home, WalrusdProcess
from tests.rpc.raw_client import Json, RawClient, open_raw_client
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.methods import METHODS
from walrus_protocol.methods.daemon import Hello, ProviderStatus, Status

NO_USAGE = {"input": 0, "output": 0, "cache_read": 0, "cache_write": 0, "reasoning": 0}


async def call_strictly(raw_client: RawClient, method: str, params: Json | None = None) -> Json:
    """Calls a method and returns its result; asserts that it has exactly the fields of the protocol."""
    answer = await raw_client.call(method, params)
    assert {"jsonrpc", "id", "result"} == answer.keys(), answer
    result: Json = answer["result"]
    assert json.loads(msgspec.json.encode(convert(result, METHODS[method].result))) == result
    return result


async def new_session(raw_client: RawClient, agent: str = "echo") -> int:
    session: int = (await call_strictly(raw_client, "session.create", {"agent": agent}))["session"]
    return session


async def test_ping(raw_client: RawClient) -> None:
    assert await call_strictly(raw_client, "daemon.ping") == {}


async def test_hello_returns_the_identity_of_the_daemon(
    raw_client: RawClient, daemon: WalrusdProcess, home: Home
) -> None:
    hello = convert(await call_strictly(raw_client, "daemon.hello", {"client": "test", "protocol": 1}), Hello)
    assert (hello.protocol, hello.version, hello.pid, hello.home) == (
        1,
        walrusd.__version__,
        daemon.pid,
        str(home.path),
    )
    assert hello.uptime_s > 0


async def test_hello_refuses_another_protocol(raw_client: RawClient) -> None:
    answer = await raw_client.call("daemon.hello", {"client": "test", "protocol": 2})
    assert answer["error"]["code"] == -32006
    assert answer["error"]["data"]["kind"] == "protocol"
    assert answer["error"]["data"]["hint"]
    assert (await raw_client.call("daemon.ping"))["result"] == {}


async def test_status_counts(raw_client: RawClient, client: AsyncClient, daemon: WalrusdProcess, home: Home) -> None:
    before = convert(await call_strictly(raw_client, "daemon.status"), Status)
    await new_session(raw_client)
    after = convert(await call_strictly(raw_client, "daemon.status"), Status)
    assert (after.version, after.pid, after.home) == (walrusd.__version__, daemon.pid, str(home.path))
    assert set(after.agents) == {"echo", "fake", "lost", "walrus"}
    assert after.providers == (
        ProviderStatus(name="echo", kind="echo", models=("echo",)),
        ProviderStatus(name="fake", kind="openai", models=("fake",)),
    )
    assert after.sessions.open == before.sessions.open + 1
    assert after.sessions.live == before.sessions.live + 1
    assert after.sessions.running == 0
    assert after.connections >= 2
    assert 10e6 < after.rss_bytes < 300e6
    assert 8 <= after.fds < 100
    assert after.tasks >= 8
    assert after.threads >= 2  # the loop and the store's writer
    assert after.children >= 0
    assert after.uptime_s >= before.uptime_s > 0


async def test_metrics_count_from_the_start_of_the_daemon(tmp_path: Path, timeout_guard: None) -> None:
    with Home(tmp_path / "home").walrusd() as daemon:
        async with open_raw_client(daemon.socket) as raw_client:
            session = await new_session(raw_client, "walrus")
            await call_strictly(raw_client, "session.send", {"session": session, "content": "one two"})
            await raw_client.call("session.get", {"session": 999})
            metrics = (await call_strictly(raw_client, "daemon.metrics"))["metrics"]
    assert {name: value for name, value in metrics.items() if "_total" in name and value} == {
        'walrusd_turns_total{stop_reason="text_response"}': 1,
        'walrusd_agent_turns_total{agent="walrus"}': 1,
        'walrusd_model_rounds_total{provider="echo",model="echo"}': 1,
        'walrusd_events_total{type="session_created"}': 1,
        'walrusd_events_total{type="user_message"}': 1,
        'walrusd_events_total{type="assistant_message"}': 1,
        'walrusd_events_total{type="done"}': 1,
        'walrusd_events_total{type="text_delta"}': 2,
        'walrusd_events_total{type="state_changed"}': 3,
        'walrusd_requests_total{method="session.create"}': 1,
        'walrusd_requests_total{method="session.send"}': 1,
        'walrusd_requests_total{method="session.get"}': 1,
        'walrusd_request_errors_total{kind="session_not_found"}': 1,
        "walrusd_connections_total": 1,
    }
    for name in ("walrusd_turn_seconds_count", "walrusd_sessions_open", "walrusd_connections"):
        assert metrics[name] == 1
    assert metrics["walrusd_wal_bytes"] > 0
    assert metrics["walrusd_db_bytes"] > 0


async def test_metrics_are_also_available_as_text_for_prometheus(raw_client: RawClient) -> None:
    result = await call_strictly(raw_client, "daemon.metrics", {"format": "prometheus"})
    assert result["metrics"] == {}
    families = {family.name: family for family in text_string_to_metric_families(result["text"])}
    assert families["walrusd_turns"].type == "counter"
    [info] = families["walrusd_info"].samples
    assert info.labels == {"version": walrusd.__version__}
    [fds] = families["walrusd_open_fds"].samples
    assert fds.value >= 8


async def test_discover_lists_every_method_with_schemas_of_its_params_and_result(raw_client: RawClient) -> None:
    discovery = await call_strictly(raw_client, "rpc.discover")
    assert {method["name"] for method in discovery["methods"]} == set(METHODS)
    for method in discovery["methods"]:
        row = METHODS[method["name"]]
        for schema, struct in ((method["params"], row.params), (method["result"], row.result)):
            definition = discovery["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
            assert set(definition["properties"]) == set(struct.__struct_fields__), method["name"]


async def test_agents_are_listed_without_their_prompts_and_shown_with_them(raw_client: RawClient) -> None:
    listed = (await call_strictly(raw_client, "agent.list"))["agents"]
    assert {agent["name"] for agent in listed} == {"echo", "fake", "lost", "walrus"}
    in_list = next(agent for agent in listed if agent["name"] == "fake")
    shown = await call_strictly(raw_client, "agent.get", {"agent": "fake"})
    assert shown.pop("system_prompt")
    assert in_list.pop("system_prompt") == ""
    assert shown == in_list
    assert (shown["model"], shown["max_iterations"], shown["tools"]) == ("fake", 3, ["read"])


async def test_a_session_is_created_and_shown(raw_client: RawClient) -> None:
    params = {"agent": "echo", "created_by": "me", "title": "On walruses"}
    session = (await call_strictly(raw_client, "session.create", params))["session"]
    shown = await call_strictly(raw_client, "session.get", {"session": session})
    created_at = shown.pop("created_at")
    assert created_at == pytest.approx(shown.pop("updated_at"))
    assert shown == {
        "id": session,
        "agent": "echo",
        "created_by": "me",
        "title": "On walruses",
        "state": "idle",
        "queued": 0,
        "messages": 0,
        "last_seq": 1,
        "parent": None,
        "usage": NO_USAGE,
        "cost_usd": 0.0,
        "error": None,
        "open_approvals": [],
        "open_questions": [],
    }


async def test_a_message_is_sent_and_answered(raw_client: RawClient) -> None:
    session = await new_session(raw_client)
    assert await call_strictly(raw_client, "session.send", {"session": session, "content": "hi"}) == {
        "session": session,
        "turn": 1,
        "text": "hi",
        "stop_reason": "text_response",
        "error": None,
        "rounds": 1,
        "usage": NO_USAGE,
        "cost_usd": 0.0,
        "first_seq": 2,
        "last_seq": 4,
    }
    assert (await call_strictly(raw_client, "session.get", {"session": session}))["messages"] == 2


async def test_the_sender_is_part_of_the_prompt(raw_client: RawClient) -> None:
    session = await new_session(raw_client)
    sent = await call_strictly(raw_client, "session.send", {"session": session, "content": "hi", "sender": "Ann"})
    assert "Ann" in sent["text"]
    assert sent["text"].endswith("hi")


async def test_a_message_may_consist_of_parts(raw_client: RawClient) -> None:
    session = await new_session(raw_client)
    parts = [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}]
    assert (await call_strictly(raw_client, "session.send", {"session": session, "content": parts}))[
        "text"
    ] == "hi\nthere"


async def test_history_returns_the_messages_that_the_model_sees(raw_client: RawClient) -> None:
    session = await new_session(raw_client)
    await raw_client.call("session.send", {"session": session, "content": "hi"})
    assert await call_strictly(raw_client, "session.history", {"session": session}) == {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hi", "thinking": "", "calls": [], "opaque": None},
        ],
        "cursor": None,
    }


async def test_an_agent_is_run_in_a_new_session_that_closes(raw_client: RawClient) -> None:
    result = await call_strictly(
        raw_client, "agent.run", {"agent": "echo", "content": "hi", "created_by": "me", "title": "Once"}
    )
    assert (result["text"], result["turn"], result["stop_reason"]) == ("hi", 1, "text_response")
    waited = await call_strictly(raw_client, "session.wait", {"session": result["session"], "states": ["closed"]})
    assert waited == {"state": "closed"}
    shown = await call_strictly(raw_client, "session.get", {"session": result["session"]})
    assert (shown["state"], shown["created_by"], shown["title"]) == ("closed", "me", "Once")


async def test_a_session_closes_once_and_can_still_be_read(raw_client: RawClient) -> None:
    session = await new_session(raw_client)
    await raw_client.call("session.send", {"session": session, "content": "hi"})
    assert await call_strictly(raw_client, "session.close", {"session": session}) == {"closed": True}
    assert await call_strictly(raw_client, "session.close", {"session": session}) == {"closed": False}
    assert (await call_strictly(raw_client, "session.get", {"session": session}))["state"] == "closed"
    assert len((await call_strictly(raw_client, "session.history", {"session": session}))["messages"]) == 2
    refused = (await raw_client.call("session.send", {"session": session, "content": "more"}))["error"]
    assert (refused["code"], refused["data"]["kind"]) == (-32005, "session_closed")


async def test_an_interrupt_of_an_idle_session_is_not_an_error(raw_client: RawClient) -> None:
    session = await new_session(raw_client)
    assert await call_strictly(raw_client, "session.interrupt", {"session": session}) == {
        "interrupted": False,
        "turn": None,
    }


async def test_the_active_configuration_is_shown(raw_client: RawClient, home: Home) -> None:
    shown = await call_strictly(raw_client, "config.get")
    assert shown["path"] == str(home.path / "walrus.toml")
    assert shown["config"]["agents"]["fake"]["model"] == "fake"


async def test_config_check_reads_the_current_files_and_changes_nothing(raw_client: RawClient, home: Home) -> None:
    assert (await call_strictly(raw_client, "config.check"))["ok"]
    with home.with_extra_line("[agents.fake.heartbat]") as wrong:
        checked = await call_strictly(raw_client, "config.check")
    assert (checked["ok"], checked["path"]) == (False, str(home.path / "walrus.toml"))
    assert f"{wrong}: agents.fake.heartbat" in checked["message"]
    assert checked["hint"]
    assert (await call_strictly(raw_client, "config.check"))["ok"]
