"""Tests of the tool `read` in a real daemon.

They follow the model's call through every gate to the result that the model gets.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.fakes.home import Home
from tests.fakes.provider import FakeProvider, calls_tools, open_provider, replies
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.events import AnyEvent, NewerEvent, ToolCallsStart, ToolResult
from walrus_protocol.methods import AttachParams, CreateParams, SendParams, SessionParams, TurnResult

TOML = """
[daemon]
shutdown_grace_s = 0.1
[defaults]
model = "fake"
max_iterations = 3
[providers.fake]
kind = "openai"
base_url = "{url}"
api_key = "sk-secret-of-the-home"
models = ["fake"]
[permissions]
allow = ["read"]
[agents.reader]
description = "May read"
[agents.forbidden]
description = "May not read"
permissions = {{ deny = ["read"] }}
[agents.unable]
description = "Is offered nothing"
deny_tools = ["read"]
"""


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with open_provider() as fake:
        yield fake


@pytest.fixture
async def client(tmp_path: Path, provider: FakeProvider) -> AsyncIterator[AsyncClient]:
    home = Home(tmp_path / "home", TOML.format(url=provider.url))
    home.write("workspace/notes.txt", "line one\nline two\n")
    (home.path / "workspace" / "out").symlink_to(tmp_path)
    (tmp_path / "outside.txt").write_text("not yours")
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client:
            yield client


async def run_turn(client: AsyncClient, agent: str = "reader") -> tuple[TurnResult, list[AnyEvent | NewerEvent]]:
    """Runs a turn in a new session; returns its result and the logged events of the session."""
    session = (await client.create(CreateParams(agent=agent))).session
    with trio.fail_after(20):
        turn = await client.send(SendParams(session=session, content="read it"))
        async with client.attach(AttachParams(session=session, follow=False)) as events:
            return turn, [event async for event in events]


def results(events: list[AnyEvent | NewerEvent]) -> list[ToolResult]:
    return [event for event in events if isinstance(event, ToolResult)]


async def test_a_file_is_read_and_the_model_answers_from_it(client: AsyncClient, provider: FakeProvider) -> None:
    provider.enqueue(calls_tools(("read", {"path": "notes.txt"})), replies("Two lines."))
    turn, events = await run_turn(client)
    assert (turn.text, turn.stop_reason, turn.rounds) == ("Two lines.", "text_response", 2)
    assert [type(event).__struct_config__.tag for event in events] == [
        "session_created",
        "user_message",
        "assistant_message",
        "tool_calls_start",
        "tool_started",
        "tool_result",
        "tool_calls_complete",
        "assistant_message",
        "done",
    ]
    [result] = results(events)
    assert (result.output, result.outcome, result.is_error, result.gate) == (
        "line one\nline two\n",
        "ok",
        False,
        None,
    )
    body = provider.requests[0].body
    assert [tool["function"]["name"] for tool in body["tools"]] == ["read"]
    call, answer = provider.requests[1].messages[-2:]
    assert (answer["role"], answer["content"]) == ("tool", "line one\nline two\n")
    assert answer["tool_call_id"] == call["tool_calls"][0]["id"]


async def test_calls_of_one_round_are_answered_in_their_order(client: AsyncClient, provider: FakeProvider) -> None:
    requested = [("read", {"path": "missing.txt"}), ("read", {"path": "notes.txt"}), ("write", {"path": "x"})]
    provider.enqueue(calls_tools(*requested), replies("ok"))
    _, events = await run_turn(client)
    [start] = [event for event in events if isinstance(event, ToolCallsStart)]
    answered = [message["tool_call_id"] for message in provider.requests[1].messages if message["role"] == "tool"]
    assert answered == [call.id for call in start.calls]
    by_call = {result.call_id: result.outcome for result in results(events)}
    assert [by_call[call] for call in answered] == ["error", "ok", "unknown_tool"]


@pytest.mark.parametrize(
    ("agent", "call", "outcome", "expected"),
    [
        ("forbidden", ("read", {"path": "notes.txt"}), "denied", "read"),
        ("reader", ("read", {"path": "/etc/passwd"}), "error", "outside your workspace"),
        ("reader", ("read", {"path": "../walrus.toml"}), "error", "outside your workspace"),
        ("reader", ("read", {"path": "out/outside.txt"}), "error", "outside your workspace"),
        ("reader", ("read", {"path": "out/home/walrus.toml"}), "error", "outside your workspace"),
        ("reader", ("read", {"path": "note.txt"}), "error", "notes.txt"),
        ("reader", ("read", {}), "invalid", "path"),
        ("reader", ("read", {"path": 7}), "invalid", "path"),
        ("reader", ("read", {"path": "notes.txt", "lines": 3}), "invalid", "lines"),
        ("reader", ("read", "{half an obj"), "invalid", "JSON"),
        ("reader", ("raed", {"path": "notes.txt"}), "unknown_tool", "read"),
        ("unable", ("read", {"path": "notes.txt"}), "denied", "read"),
    ],
)
async def test_a_refusal_is_a_result_that_the_model_gets(
    client: AsyncClient,
    provider: FakeProvider,
    agent: str,
    call: tuple[str, dict[str, object] | str],
    outcome: str,
    expected: str,
) -> None:
    provider.enqueue(calls_tools(call), replies("I could not."))
    turn, events = await run_turn(client, agent)
    assert (turn.text, turn.stop_reason) == ("I could not.", "text_response")
    [result] = results(events)
    assert (result.outcome, result.is_error) == (outcome, True)
    assert result.gate
    assert expected in result.output
    assert provider.requests[1].messages[-1]["content"] == result.output
    for secret in ("sk-secret", "not yours", "root:"):
        assert secret not in result.output


async def test_without_permissions_every_tool_is_denied(tmp_path: Path, provider: FakeProvider) -> None:
    home = Home(tmp_path / "other", TOML.format(url=provider.url).replace('allow = ["read"]', ""))
    home.write("workspace/notes.txt", "secret plans")
    provider.enqueue(calls_tools(("read", {"path": "notes.txt"})), replies("I may not."))
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client:
            _, events = await run_turn(client)
    [result] = results(events)
    assert (result.outcome, result.gate) == ("denied", "permissions")
    assert "secret plans" not in str(provider.requests[1].body)


async def test_an_agent_whose_tools_are_denied_is_offered_none(client: AsyncClient, provider: FakeProvider) -> None:
    provider.enqueue(replies("hello"))
    await run_turn(client, "unable")
    assert "tools" not in provider.requests[0].body


async def test_a_turn_of_only_tool_calls_ends_at_max_iterations_and_the_session_continues(
    client: AsyncClient, provider: FakeProvider
) -> None:
    provider.set_default(calls_tools(("read", {"path": "notes.txt"})))
    turn, events = await run_turn(client)
    assert (turn.stop_reason, turn.rounds) == ("max_iterations", 3)
    assert [result.outcome for result in results(events)] == ["ok"] * 3
    provider.set_default(replies("done"))
    again = await client.send(SendParams(session=turn.session, content="and?"))
    assert (again.text, again.rounds) == ("done", 1)
    assert (await client.session(SessionParams(session=turn.session))).state == "idle"
