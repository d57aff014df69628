"""Tests of the principal of a connection: events say which client has done something."""

import os
from pathlib import Path

import pytest

from tests.fakes.home import ECHO, Home, WalrusdProcess
from tests.fakes.provider import FakeProvider, hangs, replies
from tests.rpc.raw_client import Json, RawClient, open_raw_client
from tests.rpc.test_interrupt_close import session_log
from tests.rpc.test_methods import new_session


async def closed_by(raw_client: RawClient, session: int) -> str:
    await raw_client.call("session.wait", {"session": session, "states": ["closed"]})
    [by] = [event["by"] for event in await session_log(raw_client, session) if event["type"] == "session_closed"]
    assert isinstance(by, str)
    return by


async def test_each_connection_has_the_name_that_its_hello_gave(raw_client: RawClient, daemon: WalrusdProcess) -> None:
    async with open_raw_client(daemon.socket) as ann, open_raw_client(daemon.socket) as bob:
        await ann.call("daemon.hello", {"client": "ann"})
        await bob.call("daemon.hello", {"client": "bob"})
        closings = []
        for client in (ann, bob, raw_client):
            session = await new_session(client)
            await client.call("session.close", {"session": session})
            closings.append(await closed_by(raw_client, session))
    assert closings == ["client:ann", "client:bob", "client"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session.interrupt", {}),
        ("session.send", {"content": "now", "sender": "somebody else", "when_busy": "interrupt"}),
        ("session.close", {"force": True}),
    ],
)
async def test_an_interrupt_is_by_the_client_that_requested_it(
    raw_client: RawClient, daemon: WalrusdProcess, session: int, provider: FakeProvider, method: str, params: Json
) -> None:
    provider.enqueue(hangs(), replies("ok"))
    await raw_client.send_request("session.send", {"session": session, "content": "hi"}, id="turn")
    await provider.wait_until(lambda fake: len(fake.requests) == 1)
    async with open_raw_client(daemon.socket) as named:
        await named.call("daemon.hello", {"client": "walrusctl 0.1"})
        assert "result" in await named.call(method, {"session": session, **params})
        events = await session_log(named, session)
    assert [event["by"] for event in events if event["type"] == "interrupt_requested"] == ["client:walrusctl 0.1"]


async def test_a_fork_is_created_by_the_client_that_requested_it(raw_client: RawClient) -> None:
    await raw_client.call("daemon.hello", {"client": "ann"})
    forked = (await raw_client.call("session.fork", {"session": await new_session(raw_client)}))["result"]["session"]
    shown = (await raw_client.call("session.get", {"session": forked}))["result"]
    assert shown["created_by"] == "client:ann"


async def test_no_param_can_set_by(raw_client: RawClient) -> None:
    run = await raw_client.call("agent.run", {"agent": "echo", "content": "hi", "created_by": "walrusd", "sender": "x"})
    assert await closed_by(raw_client, run["result"]["session"]) == "client"
    for method in ("session.close", "session.interrupt"):
        refused = await raw_client.call(method, {"session": await new_session(raw_client), "by": "walrusd"})
        assert refused["error"]["data"]["kind"] == "invalid_params"


async def test_a_hello_without_a_name_and_one_that_is_refused_change_no_name(raw_client: RawClient) -> None:
    await raw_client.call("daemon.hello", {"client": "ann"})
    await raw_client.call("daemon.hello")
    await raw_client.call("daemon.hello", {"client": "bob", "protocol": 2})
    session = await new_session(raw_client)
    await raw_client.call("session.close", {"session": session})
    assert await closed_by(raw_client, session) == "client:ann"


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "left\u202eright", "a" * 129])
async def test_a_name_that_is_long_or_cannot_be_printed_is_refused(raw_client: RawClient, name: str) -> None:
    refused = (await raw_client.call("daemon.hello", {"client": name}))["error"]
    assert refused["data"]["kind"] == "invalid_params"
    assert "client" in refused["message"]
    session = await new_session(raw_client)
    await raw_client.call("session.close", {"session": session})
    assert await closed_by(raw_client, session) == "client"


async def test_the_log_of_a_daemon_at_level_debug_says_which_process_a_client_is(tmp_path: Path) -> None:
    with Home(tmp_path / "home", ECHO.replace("[daemon]", '[daemon]\nlog_level = "debug"')).walrusd() as daemon:
        async with open_raw_client(daemon.socket) as raw_client:
            await raw_client.call("daemon.hello", {"client": "ann"})
        await daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("client_named")))
        opened, named = daemon.lines_of("connection_opened")[-1], daemon.lines_of("client_named")[-1]
    process = (os.getuid(), os.getpid())
    assert (opened["kind"], opened["uid"], opened["pid"]) == ("client", *process)
    assert (named["client"], named["uid"], named["pid"]) == ("ann", *process)
