"""Tests of requests in general: concurrent on one connection, cancelled, or abandoned by their client."""

import trio

from tests.fakes.home import WalrusdProcess
from tests.fakes.provider import FakeProvider, hangs, replies
from tests.rpc.raw_client import RawClient, open_raw_client, request
from walrus_protocol.async_client import AsyncClient
from walrus_protocol.methods import CreateParams, SendParams, SessionParams, WaitParams


async def test_requests_of_one_connection_run_concurrently(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider
) -> None:
    session = (await client.create(CreateParams(agent="fake"))).session
    gate = trio.Event()
    provider.enqueue(replies("slow", gate=[gate]))
    await raw_client.send(
        request("session.send", {"session": session, "content": "hi"}, "slow"),
        request("session.get", {"session": session}, "quick"),
        request("daemon.ping", id="quicker"),
    )
    overtaken = {(await raw_client.receive())["id"] for _ in range(2)}
    assert overtaken == {"quick", "quicker"}
    gate.set()
    answer = await raw_client.receive()
    assert (answer["id"], answer["result"]["text"]) == ("slow", "slow")


async def test_a_thousand_requests_in_one_send_get_an_answer_each(raw_client: RawClient) -> None:
    inline = [request("daemon.ping", id=number) for number in range(500)]
    in_tasks = [request("daemon.status", id=f"s{number}") for number in range(500)]
    messages = [*inline, *in_tasks]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw_client.send, *messages)
        answers = [await raw_client.receive() for _ in range(1000)]
    assert {answer["id"] for answer in answers} == {message["id"] for message in messages}
    assert all("result" in answer for answer in answers)


async def test_sessions_run_concurrently(client: AsyncClient, provider: FakeProvider) -> None:
    gate = trio.Event()
    provider.enqueue(*(replies("done", gate=[gate]) for _ in range(10)))
    sessions = [(await client.create(CreateParams(agent="fake"))).session for _ in range(10)]
    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(client.send, SendParams(session=session, content="hi"))
        await provider.wait_until(lambda fake: len(fake.requests) == 10)
        assert (await client.status()).sessions.running == 10
        gate.set()


async def test_cancelling_a_send_ends_the_request_and_not_the_turn(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider
) -> None:
    session = (await client.create(CreateParams(agent="fake"))).session
    gate = trio.Event()
    provider.enqueue(replies("all the same", gate=[gate]))
    await raw_client.send_request("session.send", {"session": session, "content": "hi"}, id=7)
    await provider.wait_until(lambda fake: len(fake.requests) == 1)
    await raw_client.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": 7}})
    answer = await raw_client.receive()
    assert (answer["id"], answer["error"]["code"], answer["error"]["data"]["kind"]) == (7, -32010, "cancelled")
    gate.set()
    await client.wait(WaitParams(session=session, states=("idle",)))
    assert (await client.session(SessionParams(session=session))).messages == 2


async def test_a_cancel_of_no_request_is_ignored(raw_client: RawClient) -> None:
    for params in ({"id": 99}, {"id": None}, {}, {"id": [1]}, [1], "x"):
        await raw_client.send({"jsonrpc": "2.0", "method": "rpc.cancel", "params": params})
    assert (await raw_client.call("daemon.ping", id="after"))["id"] == "after"


async def test_a_cancel_with_an_id_is_refused_with_a_hint(raw_client: RawClient) -> None:
    error = (await raw_client.call("rpc.cancel", {"id": 1}))["error"]
    assert error["code"] == -32601
    assert "without an id" in error["data"]["hint"]


async def test_a_request_without_an_id_is_neither_executed_nor_answered(
    raw_client: RawClient, client: AsyncClient
) -> None:
    before = (await client.status()).sessions.open
    await raw_client.send({"jsonrpc": "2.0", "method": "session.create", "params": {"agent": "echo"}})
    assert (await raw_client.call("daemon.ping"))["result"] == {}
    assert (await client.status()).sessions.open == before


async def test_an_id_may_be_reused_once_it_is_answered(raw_client: RawClient) -> None:
    for _ in range(3):
        assert (await raw_client.call("daemon.ping", id="same"))["id"] == "same"
        assert "result" in await raw_client.call("session.create", {"agent": "echo"}, id="same")


async def test_a_repeated_id_in_flight_is_refused_and_the_first_request_is_answered(
    raw_client: RawClient, client: AsyncClient, provider: FakeProvider
) -> None:
    session = (await client.create(CreateParams(agent="fake"))).session
    gate = trio.Event()
    provider.enqueue(replies("mine", gate=[gate]))
    await raw_client.send_request("session.send", {"session": session, "content": "hi"}, id=1)
    await raw_client.send_request("daemon.ping", id=1)
    error = (await raw_client.receive())["error"]
    assert (error["code"], error["data"]["kind"]) == (-32600, "invalid_request")
    assert "in flight" in error["message"]
    gate.set()
    assert (await raw_client.receive())["result"]["text"] == "mine"


async def test_over_a_thousand_waiting_requests_of_one_connection_are_refused(
    raw_client: RawClient, client: AsyncClient
) -> None:
    session = (await client.create(CreateParams(agent="echo"))).session
    waits = [request("session.wait", {"session": session, "states": ["closed"]}, number) for number in range(1025)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw_client.send, *waits)
        answer = await raw_client.receive()
    assert (answer["id"], answer["error"]["code"]) == (1024, -32600)
    assert answer["error"]["data"]["hint"]


async def test_the_requests_of_a_client_that_disconnects_are_dropped(
    client: AsyncClient, daemon: WalrusdProcess, provider: FakeProvider
) -> None:
    session = (await client.create(CreateParams(agent="fake"))).session
    provider.enqueue(hangs("so"))
    before = (await client.status()).connections
    async with open_raw_client(daemon.socket) as leaving:
        await leaving.send_request("session.attach", {"session": session}, id=1)
        await leaving.send_request("session.send", {"session": session, "content": "hi"}, id=2)
        await leaving.send_request("session.wait", {"session": session, "states": ["closed"]}, id=3)
        await provider.wait_until(lambda fake: len(fake.requests) == 1)
    with trio.fail_after(20):
        while (await client.status()).connections > before:
            pass
    assert (await client.interrupt(SessionParams(session=session))).interrupted


async def test_a_cancelled_request_does_not_let_later_ones_overtake_earlier_ones(
    raw_client: RawClient, daemon: WalrusdProcess
) -> None:
    for _ in range(10):
        async with open_raw_client(daemon.socket) as other:
            session = (await other.call("session.create", {"agent": "echo"}))["result"]["session"]
        await raw_client.send(
            # It is not accepted at once, because its key is looked up in the store.
            request("session.send", {"session": session, "content": "1", "key": "k"}, 1),
            request("session.send", {"session": session, "content": "2", "key": "l"}, 2),
            {"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": 2}},
            request("session.send", {"session": session, "content": "3"}, 3),
        )
        answers = {answer["id"]: answer for answer in [await raw_client.receive() for _ in range(3)]}
        assert answers[2]["error"]["data"]["kind"] == "cancelled"
        assert [answers[number]["result"]["turn"] for number in (1, 3)] == [1, 2]
