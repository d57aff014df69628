"""The typed trio client of walrusd, with concurrent requests and streams of typed events.

    async with connect(socket_path) as client:
        created = await client.create(CreateParams(agent="walrus"))
        async with client.stream(SendParams(session=created.session, content="hi")) as turn:
            async for event in turn: ...
        print(turn.result.text)

Raises Unreachable and RequestFailed, like the blocking client. To limit the time of a call, put `trio.fail_after`
around it. Cancelling a call only ends the wait (rpc.cancel); a turn continues in the daemon.
"""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from typing import Generic, Self, TypeVar

import trio
from msgspec import Struct

from walrus_protocol import methods
from walrus_protocol.client_transport import SEND_TIMEOUT_S, ClientTransport, Result, request_failed, unwrap_result
from walrus_protocol.connection import (
    Cancel,
    ChunkNotification,
    EventNotification,
    Failure,
    FromServer,
    Request,
    RequestId,
    Response,
)
from walrus_protocol.events import AnyEvent, NewerEvent, decode
from walrus_protocol.methods import daemon, export_import, fork_rewind, schedule, search, subscribe
from walrus_protocol.param_types import NoParams, Params

Stream = TypeVar("Stream")


class _AsyncPendingRequest(Generic[Result]):
    """A request with notifications before its response.

    It has its own connection and delays no other request.
    """

    def __init__(self, transport: ClientTransport, result_type: type[Result]) -> None:
        self._transport = transport
        self._result_type = result_type
        self._result: Result | None = None

    @property
    def result(self) -> Result:
        """The method's result.

        Raises RuntimeError until all notifications have been read.
        """
        if self._result is None:
            raise RuntimeError("there is no answer yet: read all notifications first")
        return self._result

    def __aiter__(self) -> Self:
        return self

    async def _next_notification(self) -> EventNotification | ChunkNotification:
        """Returns the next notification. Raises StopAsyncIteration when the result has come."""
        if self._result is not None:
            raise StopAsyncIteration
        match await self._transport.receive():
            case Response(result=result):
                self._result = unwrap_result(result, self._result_type)
                raise StopAsyncIteration
            case EventNotification() | ChunkNotification() as notification:
                return notification


class AsyncEventStream(_AsyncPendingRequest[Result]):
    """A streaming request under way: iterate over its events, then read its `result`.

    Events that a slow reader has not read yet wait in the daemon. It drops only live events, and reports how many in
    a `lagged` event.
    """

    async def __anext__(self) -> AnyEvent | NewerEvent:
        while not isinstance(notification := await self._next_notification(), EventNotification):
            pass
        return decode(notification.event)


class AsyncChunkStream(_AsyncPendingRequest[Result]):
    """A document sent in chunks: iterate over the chunks, then read the `result`."""

    async def __anext__(self) -> str:
        while not isinstance(notification := await self._next_notification(), ChunkNotification):
            pass
        return notification.data


OpenEventStream = AbstractAsyncContextManager[AsyncEventStream[Result]]
OpenChunkStream = AbstractAsyncContextManager[AsyncChunkStream[Result]]


class AsyncClient:
    """A client with one method for each method of the protocol. Created by `connect`."""

    def __init__(self, path: str, transport: ClientTransport) -> None:
        self._path = path
        self._transport = transport
        self._waiters: dict[RequestId, _Waiter] = {}
        self._is_reading = False

    async def discover(self) -> methods.Discovery:
        return await self._call("rpc.discover", NoParams(), methods.Discovery)

    async def ping(self) -> daemon.Pong:
        return await self._call("daemon.ping", NoParams(), daemon.Pong)

    async def hello(self, params: daemon.HelloParams) -> daemon.Hello:
        return await self._call("daemon.hello", params, daemon.Hello)

    async def status(self) -> daemon.Status:
        return await self._call("daemon.status", NoParams(), daemon.Status)

    async def metrics(self, params: daemon.MetricsParams) -> daemon.MetricsResult:
        return await self._call("daemon.metrics", params, daemon.MetricsResult)

    async def reload(self) -> daemon.ReloadResult:
        return await self._call("daemon.reload", NoParams(), daemon.ReloadResult)

    async def gc(self, params: daemon.GcParams) -> daemon.GcResult:
        return await self._call("daemon.gc", params, daemon.GcResult)

    async def shutdown(self) -> daemon.ShutdownResult:
        return await self._call("daemon.shutdown", NoParams(), daemon.ShutdownResult)

    async def agents(self) -> methods.AgentList:
        return await self._call("agent.list", NoParams(), methods.AgentList)

    async def agent(self, params: methods.AgentParams) -> methods.AgentInfo:
        return await self._call("agent.get", params, methods.AgentInfo)

    async def create(self, params: methods.CreateParams) -> methods.CreateResult:
        return await self._call("session.create", params, methods.CreateResult)

    async def sessions(self, params: methods.ListParams) -> methods.SessionList:
        return await self._call("session.list", params, methods.SessionList)

    async def session(self, params: methods.SessionParams) -> methods.SessionInfo:
        return await self._call("session.get", params, methods.SessionInfo)

    async def send(self, params: methods.SendParams) -> methods.TurnResult:
        return await self._call("session.send", params, methods.TurnResult)

    async def wait(self, params: methods.WaitParams) -> methods.WaitResult:
        return await self._call("session.wait", params, methods.WaitResult)

    async def history(self, params: methods.HistoryParams) -> methods.History:
        return await self._call("session.history", params, methods.History)

    async def search(self, params: search.SearchParams) -> search.Hits:
        return await self._call("session.search", params, search.Hits)

    async def interrupt(self, params: methods.SessionParams) -> methods.InterruptResult:
        return await self._call("session.interrupt", params, methods.InterruptResult)

    async def close(self, params: methods.CloseParams) -> methods.CloseResult:
        return await self._call("session.close", params, methods.CloseResult)

    async def resume(self, params: methods.SessionParams) -> methods.TurnResult:
        return await self._call("session.resume", params, methods.TurnResult)

    async def fork(self, params: fork_rewind.ForkParams) -> fork_rewind.ForkResult:
        return await self._call("session.fork", params, fork_rewind.ForkResult)

    async def rewind(self, params: fork_rewind.RewindParams) -> fork_rewind.RewindResult:
        return await self._call("session.rewind", params, fork_rewind.RewindResult)

    async def checkpoint(self, params: fork_rewind.CheckpointParams) -> fork_rewind.CheckpointResult:
        return await self._call("session.checkpoint", params, fork_rewind.CheckpointResult)

    async def checkpoints(self, params: fork_rewind.CheckpointListParams) -> fork_rewind.CheckpointList:
        return await self._call("session.checkpoints", params, fork_rewind.CheckpointList)

    def export(self, params: export_import.ExportParams) -> OpenChunkStream[export_import.ExportResult]:
        return self._open_request("session.export", params, AsyncChunkStream, export_import.ExportResult)

    async def import_(self, params: export_import.ImportParams) -> export_import.ImportResult:
        """Sends the next part of a document; the parts of one document are sent in order on one client."""
        return await self._call("session.import", params, export_import.ImportResult)

    async def output(self, params: methods.OutputParams) -> methods.OutputText:
        return await self._call("tool.output", params, methods.OutputText)

    async def schedules(self) -> schedule.ScheduleList:
        return await self._call("schedule.list", NoParams(), schedule.ScheduleList)

    async def run_schedule(self, params: schedule.ScheduleParams) -> schedule.TickInfo:
        return await self._call("schedule.run", params, schedule.TickInfo)

    async def pause_schedule(self, params: schedule.ScheduleParams) -> schedule.ScheduleInfo:
        return await self._call("schedule.pause", params, schedule.ScheduleInfo)

    async def resume_schedule(self, params: schedule.ScheduleParams) -> schedule.ScheduleInfo:
        return await self._call("schedule.resume", params, schedule.ScheduleInfo)

    async def ticks(self, params: schedule.TickHistoryParams) -> schedule.TickHistory:
        return await self._call("schedule.history", params, schedule.TickHistory)

    async def config(self) -> methods.ConfigResult:
        return await self._call("config.get", NoParams(), methods.ConfigResult)

    async def check_config(self) -> methods.ConfigCheckResult:
        return await self._call("config.check", NoParams(), methods.ConfigCheckResult)

    def stream(self, params: methods.SendParams) -> OpenEventStream[methods.TurnResult]:
        return self._open_request("session.stream", params, AsyncEventStream, methods.TurnResult)

    def attach(self, params: methods.AttachParams) -> OpenEventStream[methods.AttachResult]:
        return self._open_request("session.attach", params, AsyncEventStream, methods.AttachResult)

    def subscribe(self, params: subscribe.SubscribeParams) -> OpenEventStream[subscribe.SubscribeResult]:
        return self._open_request("event.subscribe", params, AsyncEventStream, subscribe.SubscribeResult)

    def run(self, params: methods.AgentRunParams) -> OpenEventStream[methods.TurnResult]:
        return self._open_request("agent.run", params, AsyncEventStream, methods.TurnResult)

    @asynccontextmanager
    async def _open_request(
        self,
        method: str,
        params: Params,
        stream_type: Callable[[ClientTransport, type[Result]], Stream],
        result_type: type[Result],
    ) -> AsyncGenerator[Stream]:
        transport = await ClientTransport.open(self._path)
        try:
            await transport.send(Request(transport.new_id(), method, params))
            yield stream_type(transport, result_type)
        finally:
            await transport.aclose()

    async def _call(self, method: str, params: Params, result_type: type[Result]) -> Result:
        request = self._transport.new_id()
        try:
            answer = await self._exchange(Request(request, method, params))
        except trio.Cancelled:
            with trio.move_on_after(SEND_TIMEOUT_S, shield=True):
                await self._transport.send(Cancel(request))
            raise
        return unwrap_result(answer, result_type)

    async def _exchange(self, request: Request) -> Struct | Failure:
        """Sends a request and returns its answer.

        One of the waiting calls reads for all of them. When it has its answer, another one takes over the reading. So a
        client needs no background task, and every failure reaches a caller.
        """
        waiter = self._waiters[request.id] = _Waiter()
        try:
            await self._transport.send(request)
            while waiter.response is None:
                if self._is_reading:
                    await waiter.wakeup.wait()
                    waiter.wakeup = trio.Event()
                else:
                    await self._read_until_answered(waiter)
        finally:
            del self._waiters[request.id]
            self._wake_next_reader()
        return waiter.response

    async def _read_until_answered(self, waiter: "_Waiter") -> None:
        self._is_reading = True
        try:
            while waiter.response is None:
                self._deliver(await self._transport.receive())
        finally:
            self._is_reading = False

    def _wake_next_reader(self) -> None:
        """Wakes one unanswered call to read, if none reads.

        Every call that ends does this: it may be the woken one.
        """
        if not self._is_reading:
            unserved = (waiter for waiter in self._waiters.values() if waiter.response is None)
            for waiter in islice(unserved, 1):
                waiter.wakeup.set()

    def _deliver(self, message: FromServer) -> None:
        match message:
            case Response(id=None, result=Failure() as failure):
                raise request_failed(failure)
            case Response(id=request, result=result):
                # No waiter: the wait was cancelled, and this is the answer to the cancelled request.
                waiter = None if request is None else self._waiters.get(request)
                if waiter is not None:
                    waiter.response = result
                    waiter.wakeup.set()
            case EventNotification() | ChunkNotification():
                pass  # requests with notifications have their own connections


class _Waiter:
    """A waiting call: it is woken when its answer has come, or when it should read for all."""

    def __init__(self) -> None:
        self.response: Struct | Failure | None = None
        self.wakeup = trio.Event()


@asynccontextmanager
async def connect(socket_path: str | os.PathLike[str]) -> AsyncGenerator[AsyncClient]:
    """Connects to the daemon at `socket_path`, and disconnects at the end. Raises Unreachable."""
    path = os.fspath(socket_path)
    transport = await ClientTransport.open(path)
    try:
        yield AsyncClient(path, transport)
    finally:
        await transport.aclose()
