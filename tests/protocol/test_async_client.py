"""Tests of the trio client over a real socket: concurrency, cancellation, streams and disconnects."""

import socket
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import get_type_hints

import pytest
import trio
from msgspec import Struct

from tests.fakes.daemon import FakeCall, FakeDaemon, HangUp, fails, returns
from walrus_protocol.async_client import AsyncChunkStream, AsyncClient, AsyncEventStream, connect
from walrus_protocol.client import RequestFailed, Unreachable
from walrus_protocol.connection import encode_error
from walrus_protocol.events import AnyEvent, Done, NewerEvent, TextDelta
from walrus_protocol.methods import (
    METHODS,
    AgentParams,
    AgentRunParams,
    AttachParams,
    AttachResult,
    CloseParams,
    CreateParams,
    CreateResult,
    HistoryParams,
    ListParams,
    OutputParams,
    SendParams,
    SessionParams,
    TurnResult,
    WaitParams,
)
from walrus_protocol.methods.daemon import GcParams, HelloParams, MetricsParams, Pong
from walrus_protocol.methods.export_import import ExportParams, ExportResult, ImportParams, ImportResult
from walrus_protocol.methods.fork_rewind import CheckpointListParams, CheckpointParams, ForkParams, RewindParams
from walrus_protocol.methods.method import Method
from walrus_protocol.methods.schedule import ScheduleParams, TickHistoryParams
from walrus_protocol.methods.search import SearchParams
from walrus_protocol.methods.subscribe import SubscribeParams
from walrus_protocol.param_types import NoParams, Params
from walrus_protocol.problems import Problem

TURN_RESULT = TurnResult(session=1, turn=1, text="hello", stop_reason="text_response")
SEND_HI = SendParams(session=1, content="hi")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "walrus.sock"


async def test_a_call_returns_the_typed_result(path: Path) -> None:
    with FakeDaemon(path, {"session.create": returns(CreateResult(session=7))}) as daemon:
        async with connect(path) as client:
            assert await client.create(CreateParams(agent="walrus")) == CreateResult(session=7)
        assert daemon.params("session.create") == [CreateParams(agent="walrus")]


async def test_many_requests_share_a_connection_and_each_gets_its_own_answer(path: Path) -> None:
    def echo(call: FakeCall) -> Struct:
        params = call.request.params
        assert isinstance(params, CreateParams)
        return CreateResult(session=int(params.agent))

    results: dict[int, CreateResult] = {}

    async def create(client: AsyncClient, number: int) -> None:
        results[number] = await client.create(CreateParams(agent=str(number)))

    with FakeDaemon(path, {"session.create": echo}) as daemon:
        async with connect(path) as client, trio.open_nursery() as nursery:
            for number in range(1, 51):
                nursery.start_soon(create, client, number)
        assert daemon.connections == 1
    assert results == {number: CreateResult(session=number) for number in range(1, 51)}


async def test_a_quick_answer_overtakes_a_slow_one(path: Path) -> None:
    script = {"session.send": FakeCall.wait_for_cancel, "daemon.ping": returns(Pong())}
    with FakeDaemon(path, script) as daemon:
        async with connect(path) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send, SEND_HI)
            await trio.to_thread.run_sync(daemon.wait_until, lambda fake: fake.params("session.send"))
            assert await client.ping() == Pong()
            nursery.cancel_scope.cancel()


async def test_cancelling_a_call_cancels_its_request_and_other_calls_go_on(path: Path) -> None:
    """The cancelled call was reading for both; the other call takes over the reading."""
    answer = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def create(call: FakeCall) -> Struct:
        trio.from_thread.run(answer.wait, trio_token=token)
        return CreateResult(session=7)

    results = []

    async def wait_for_the_session(client: AsyncClient) -> None:
        results.append(await client.create(CreateParams(agent="a")))

    with FakeDaemon(path, {"session.send": FakeCall.wait_for_cancel, "session.create": create}) as daemon:
        async with connect(path) as client, trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(client.send, SEND_HI)
                    await trio.to_thread.run_sync(daemon.wait_until, lambda fake: fake.params("session.send"))
                    nursery.start_soon(wait_for_the_session, client)
                    await trio.to_thread.run_sync(daemon.wait_until, lambda fake: fake.params("session.create"))
                    scope.cancel()
            await trio.to_thread.run_sync(daemon.wait_until, lambda fake: len(fake.cancelled) == 1)
            answer.set()
        assert results == [CreateResult(session=7)]


async def test_an_error_response_is_raised_without_an_exception_group(path: Path) -> None:
    script = {"agent.get": fails("agent_not_found", "there is no agent x", "did you mean y?")}
    with FakeDaemon(path, script), pytest.raises(RequestFailed, match="no agent x") as failed:
        async with connect(path) as client:
            await client.agent(AgentParams(agent="x"))
    assert (failed.value.code, failed.value.kind, failed.value.hint) == (
        -32004,
        "agent_not_found",
        "did you mean y?",
    )


async def test_a_stream_yields_typed_events_also_unknown_ones_and_then_its_result(path: Path) -> None:
    def script(call: FakeCall) -> Struct:
        call.emit(TextDelta(text="hello", round=1, at=0))
        call.emit_json(b'{"type":"of_tomorrow","seq":3,"offset":9,"ts":1.5,"session":1,"turn":1,"x":[1]}')
        call.emit_json(b'{"type":"done","seq":4,"stop_reason":"text_response","x":1}')
        return TURN_RESULT

    events: list[AnyEvent | NewerEvent] = []
    with FakeDaemon(path, {"session.stream": script}):
        async with connect(path) as client, client.stream(SEND_HI) as turn:
            with pytest.raises(RuntimeError, match="no answer yet"):
                turn.result  # noqa: B018  (reading it raises)
            events = [event async for event in turn]
            assert [event async for event in turn] == []
    body = {"type": "of_tomorrow", "seq": 3, "offset": 9, "ts": 1.5, "session": 1, "turn": 1, "x": [1]}
    assert events == [
        TextDelta(text="hello", round=1, at=0),
        NewerEvent(type="of_tomorrow", seq=3, offset=9, ts=1.5, session=1, turn=1, body=body),
        Done(stop_reason="text_response", seq=4),
    ]
    assert turn.result == TURN_RESULT


async def test_a_stream_that_is_not_read_delays_no_call(path: Path) -> None:
    def flood(call: FakeCall) -> Struct:
        for at in range(20_000):
            if call.cancelled.is_set():
                break
            call.emit(TextDelta(text="x", round=1, at=at))
        return AttachResult(last_seq=0, reason="end")

    with FakeDaemon(path, {"session.attach": flood, "daemon.ping": returns(Pong())}):
        async with connect(path) as client, client.attach(AttachParams(session=1)) as events:
            assert await client.ping() == Pong()
            assert isinstance(await anext(events), TextDelta)


async def test_exiting_a_stream_early_ends_the_wait_in_the_daemon(path: Path) -> None:
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def endless(call: FakeCall) -> Struct:
        call.emit(TextDelta(text="x", round=1, at=0))
        call.cancelled.wait(10)
        token.run_sync_soon(ended.set)
        return TURN_RESULT

    with FakeDaemon(path, {"session.stream": endless}):
        async with connect(path) as client:
            async with client.stream(SEND_HI) as turn:
                await anext(turn)
            with trio.fail_after(10):
                await ended.wait()


async def test_a_daemon_that_hangs_up_fails_all_waiting_and_later_requests(path: Path) -> None:
    failures: list[Unreachable] = []

    async def send(client: AsyncClient) -> None:
        with pytest.raises(Unreachable, match="hung up") as error:
            await client.send(SEND_HI)
        failures.append(error.value)

    def crash(call: FakeCall) -> Struct:
        raise HangUp

    with FakeDaemon(path, {"session.send": FakeCall.wait_for_cancel, "daemon.ping": crash}) as daemon:
        async with connect(path) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(send, client)
                await trio.to_thread.run_sync(daemon.wait_until, lambda fake: len(fake.requests) == 3)
                with pytest.raises(Unreachable):
                    await client.ping()
            await send(client)
    assert len(failures) == 4


async def test_an_error_without_a_request_id_fails_all_waiting_requests(path: Path) -> None:
    def refuse_connection(call: FakeCall) -> Struct:
        call.send_raw(encode_error(None, Problem("too_many_connections", "512 are open")))
        raise HangUp

    with FakeDaemon(path, {"daemon.ping": refuse_connection, "session.stream": refuse_connection}):
        async with connect(path) as client:
            with pytest.raises(RequestFailed, match="512 are open"):
                await client.ping()
            async with client.stream(SEND_HI) as turn:
                with pytest.raises(RequestFailed, match="512 are open"):
                    await anext(turn)


async def test_a_missing_socket_means_that_walrusd_is_not_running(path: Path) -> None:
    with pytest.raises(Unreachable, match="is not running"):
        async with connect(path):
            pass


async def test_connecting_waits_while_the_backlog_is_full(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        listener.settimeout(10)
        async with trio.open_nursery() as nursery:

            async def hold() -> None:
                async with connect(path):
                    pass

            for _ in range(4):
                nursery.start_soon(hold)
            for _ in range(4):
                sock, _ = await trio.to_thread.run_sync(listener.accept)
                sock.close()


async def test_text_that_cannot_be_encoded_is_refused_before_it_is_sent(path: Path) -> None:
    with FakeDaemon(path, {"daemon.ping": returns(Pong())}):
        async with connect(path) as client:
            with pytest.raises(RequestFailed, match="UTF-8"):
                await client.send(SendParams(session=1, content="\udcff"))
            with pytest.raises(RequestFailed, match="at most"):
                await client.send(SendParams(session=1, content="x" * (16 * 1024 * 1024)))
            assert await client.ping() == Pong()


async def test_a_document_comes_in_chunks_and_then_its_result(path: Path) -> None:
    def document(call: FakeCall) -> Struct:
        call.emit_chunks('{"a":', "1}")
        call.emit(TextDelta(text="a notification of a newer daemon", round=1, at=0))
        return ExportResult(events=0, bytes=7)

    script = {"session.export": document, "session.import": returns(ImportResult(received=7, session=3))}
    with FakeDaemon(path, script) as daemon:
        async with connect(path) as client:
            async with client.export(ExportParams(session=1)) as chunks:
                with pytest.raises(RuntimeError, match="no answer yet"):
                    chunks.result  # noqa: B018  (reading it raises)
                texts = [chunk async for chunk in chunks]
            assert (texts, chunks.result) == (['{"a":', "1}"], ExportResult(events=0, bytes=7))
            assert await client.import_(ImportParams(data="".join(texts))) == ImportResult(received=7, session=3)
        assert daemon.params("session.import") == [ImportParams(data='{"a":1}', upload="", last=True)]


SAMPLE_PARAMS: tuple[Params, ...] = (
    HelloParams(client="test"),
    AgentParams(agent="a"),
    AgentRunParams(agent="a", content="hi"),
    CreateParams(agent="a"),
    ListParams(),
    SessionParams(session=1),
    SEND_HI,
    AttachParams(session=1),
    WaitParams(session=1, states=("idle",)),
    HistoryParams(session=1),
    SearchParams(query="walrus"),
    CloseParams(session=1),
    ForkParams(session=1),
    RewindParams(session=1, to=1),
    CheckpointParams(session=1, name="here"),
    CheckpointListParams(session=1),
    MetricsParams(),
    GcParams(),
    OutputParams(session=1, ref="r"),
    SubscribeParams(),
    ExportParams(session=1),
    ImportParams(data="{}"),
    ScheduleParams(schedule="heartbeat:walrus"),
    TickHistoryParams(),
)


ClientCall = (
    Coroutine[object, object, Struct] | AbstractAsyncContextManager[AsyncEventStream[Struct] | AsyncChunkStream[Struct]]
)


async def complete_call(call: ClientCall) -> None:
    """Awaits a call, or the first notification of a streaming call."""
    if isinstance(call, AbstractAsyncContextManager):
        async with call as events:
            await anext(events)
    else:
        await call


def expected_return_type(method: Method) -> object:
    """Returns the type that the client's method for this method of the protocol must return."""
    match method.sends:
        case "events":
            return AbstractAsyncContextManager[AsyncEventStream[method.result]]  # type: ignore[name-defined]
        case "chunks":
            return AbstractAsyncContextManager[AsyncChunkStream[method.result]]  # type: ignore[name-defined]
        case None:
            return method.result


async def test_the_client_has_a_method_for_every_method_of_the_protocol(path: Path) -> None:
    names = [name for name in vars(AsyncClient) if not name.startswith("_")]
    hints = {name: get_type_hints(getattr(AsyncClient, name)) for name in names}
    sample = {type(params): params for params in SAMPLE_PARAMS}
    with FakeDaemon(path, {}) as daemon:
        async with connect(path) as client:
            for name, hint in hints.items():
                arguments = [sample[hint["params"]]] if "params" in hint else []
                with pytest.raises(RequestFailed, match="is not in the script"):
                    await complete_call(getattr(client, name)(*arguments))
        assert {request.method for request in daemon.requests} == set(METHODS)
    assert {(hint.get("params", NoParams), hint["return"]) for hint in hints.values()} == {
        (row.params, expected_return_type(row)) for row in METHODS.values()
    }


def test_the_former_module_name_still_exports_the_client() -> None:
    from walrus_protocol import aclient

    assert (aclient.Client, aclient.connect) == (AsyncClient, connect)
    assert {"Chunks", "Events"} <= set(aclient.__all__)
