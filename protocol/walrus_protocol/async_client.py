"""The typed trio client: many requests at once over one connection, and streams of typed events.

    async with connect(socket_path) as client:
        created = await client.create(CreateParams(agent="walrus"))
        async with client.stream(SendParams(session=created.session, content="hi")) as turn:
            async for event in turn: ...
        print(turn.result.text)

Raises Unreachable and RequestFailed, as the blocking client does. A time limit is a `trio.fail_after` around a call;
to cancel a call is to stop waiting for it (rpc.cancel), and a turn goes on in the daemon.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Generic, Self

import trio
from msgspec import Struct

from walrus_protocol import methods as m
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
from walrus_protocol.methods import daemon as h
from walrus_protocol.methods import export_import as p
from walrus_protocol.methods import fork_rewind as b
from walrus_protocol.methods import schedule as s
from walrus_protocol.methods import search, subscribe
from walrus_protocol.param_types import NoParams, Params


class _AsyncPendingRequest(Generic[Result]):
    """A request whose answer comes behind what it sends. It has a connection of its own, and holds up nobody else."""

    def __init__(self, transport: ClientTransport, result_type: type[Result]) -> None:
        self._transport = transport
        self._result_type = result_type
        self._result: Result | None = None

    @property
    def result(self) -> Result:
        """The method's result, once what comes before it has been read to the end."""
        if self._result is None:
            raise RuntimeError("there is no answer yet: read what comes before it to the end first")
        return self._result

    def __aiter__(self) -> Self:
        return self

    async def _next_notification(self) -> EventNotification | ChunkNotification:
        """What is sent next. Raises StopAsyncIteration when the result is there."""
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

    What a reader that falls behind has not read yet waits in the daemon, which drops nothing but live events, and says
    so with a `lagged`.
    """

    async def __anext__(self) -> AnyEvent | NewerEvent:
        while not isinstance(sent := await self._next_notification(), EventNotification):
            pass
        return decode(sent.event)


class AsyncChunkStream(_AsyncPendingRequest[Result]):
    """A document on its way: iterate over its pieces, then read the `result`."""

    async def __anext__(self) -> str:
        while not isinstance(sent := await self._next_notification(), ChunkNotification):
            pass
        return sent.data


class AsyncClient:
    """What walrusd can be asked; one method per method of the wire. Made by `connect`."""

    def __init__(self, path: str, transport: ClientTransport) -> None:
        self._path = path
        self._transport = transport
        self._waiters: dict[RequestId, _Waiter] = {}
        self._is_reading = False

    async def discover(self) -> m.Discovery:
        return await self._call("rpc.discover", NoParams(), m.Discovery)

    async def ping(self) -> h.Pong:
        return await self._call("daemon.ping", NoParams(), h.Pong)

    async def hello(self, params: h.HelloParams) -> h.Hello:
        return await self._call("daemon.hello", params, h.Hello)

    async def status(self) -> h.Status:
        return await self._call("daemon.status", NoParams(), h.Status)

    async def metrics(self, params: h.MetricsParams) -> h.MetricsResult:
        return await self._call("daemon.metrics", params, h.MetricsResult)

    async def reload(self) -> h.ReloadResult:
        return await self._call("daemon.reload", NoParams(), h.ReloadResult)

    async def gc(self, params: h.GcParams) -> h.GcResult:
        return await self._call("daemon.gc", params, h.GcResult)

    async def shutdown(self) -> h.ShutdownResult:
        return await self._call("daemon.shutdown", NoParams(), h.ShutdownResult)

    async def agents(self) -> m.AgentList:
        return await self._call("agent.list", NoParams(), m.AgentList)

    async def agent(self, params: m.AgentParams) -> m.AgentInfo:
        return await self._call("agent.get", params, m.AgentInfo)

    async def create(self, params: m.CreateParams) -> m.CreateResult:
        return await self._call("session.create", params, m.CreateResult)

    async def sessions(self, params: m.ListParams) -> m.SessionList:
        return await self._call("session.list", params, m.SessionList)

    async def session(self, params: m.SessionParams) -> m.SessionInfo:
        return await self._call("session.get", params, m.SessionInfo)

    async def send(self, params: m.SendParams) -> m.TurnResult:
        return await self._call("session.send", params, m.TurnResult)

    async def wait(self, params: m.WaitParams) -> m.WaitResult:
        return await self._call("session.wait", params, m.WaitResult)

    async def history(self, params: m.HistoryParams) -> m.History:
        return await self._call("session.history", params, m.History)

    async def search(self, params: search.SearchParams) -> search.Hits:
        return await self._call("session.search", params, search.Hits)

    async def interrupt(self, params: m.SessionParams) -> m.InterruptResult:
        return await self._call("session.interrupt", params, m.InterruptResult)

    async def close(self, params: m.CloseParams) -> m.CloseResult:
        return await self._call("session.close", params, m.CloseResult)

    async def resume(self, params: m.SessionParams) -> m.TurnResult:
        return await self._call("session.resume", params, m.TurnResult)

    async def fork(self, params: b.ForkParams) -> b.ForkResult:
        return await self._call("session.fork", params, b.ForkResult)

    async def rewind(self, params: b.RewindParams) -> b.RewindResult:
        return await self._call("session.rewind", params, b.RewindResult)

    async def checkpoint(self, params: b.CheckpointParams) -> b.CheckpointResult:
        return await self._call("session.checkpoint", params, b.CheckpointResult)

    async def checkpoints(self, params: b.CheckpointListParams) -> b.CheckpointList:
        return await self._call("session.checkpoints", params, b.CheckpointList)

    @asynccontextmanager
    async def export(self, params: p.ExportParams) -> AsyncGenerator[AsyncChunkStream[p.ExportResult]]:
        async with self._open_request("session.export", params) as line:
            yield AsyncChunkStream(line, p.ExportResult)

    async def import_(self, params: p.ImportParams) -> p.ImportResult:
        """The next part of a document; those of one follow each other on this client."""
        return await self._call("session.import", params, p.ImportResult)

    async def output(self, params: m.OutputParams) -> m.OutputText:
        return await self._call("tool.output", params, m.OutputText)

    async def schedules(self) -> s.ScheduleList:
        return await self._call("schedule.list", NoParams(), s.ScheduleList)

    async def run_schedule(self, params: s.ScheduleParams) -> s.TickInfo:
        return await self._call("schedule.run", params, s.TickInfo)

    async def pause_schedule(self, params: s.ScheduleParams) -> s.ScheduleInfo:
        return await self._call("schedule.pause", params, s.ScheduleInfo)

    async def resume_schedule(self, params: s.ScheduleParams) -> s.ScheduleInfo:
        return await self._call("schedule.resume", params, s.ScheduleInfo)

    async def ticks(self, params: s.TickHistoryParams) -> s.TickHistory:
        return await self._call("schedule.history", params, s.TickHistory)

    async def config(self) -> m.ConfigResult:
        return await self._call("config.get", NoParams(), m.ConfigResult)

    async def check_config(self) -> m.ConfigCheckResult:
        return await self._call("config.check", NoParams(), m.ConfigCheckResult)

    @asynccontextmanager
    async def stream(self, params: m.SendParams) -> AsyncGenerator[AsyncEventStream[m.TurnResult]]:
        async with self._open_event_stream("session.stream", params, m.TurnResult) as events:
            yield events

    @asynccontextmanager
    async def attach(self, params: m.AttachParams) -> AsyncGenerator[AsyncEventStream[m.AttachResult]]:
        async with self._open_event_stream("session.attach", params, m.AttachResult) as events:
            yield events

    @asynccontextmanager
    async def subscribe(
        self, params: subscribe.SubscribeParams
    ) -> AsyncGenerator[AsyncEventStream[subscribe.SubscribeResult]]:
        async with self._open_event_stream("event.subscribe", params, subscribe.SubscribeResult) as events:
            yield events

    @asynccontextmanager
    async def run(self, params: m.AgentRunParams) -> AsyncGenerator[AsyncEventStream[m.TurnResult]]:
        async with self._open_event_stream("agent.run", params, m.TurnResult) as events:
            yield events

    @asynccontextmanager
    async def _open_event_stream(
        self, method: str, params: Params, result_type: type[Result]
    ) -> AsyncGenerator[AsyncEventStream[Result]]:
        async with self._open_request(method, params) as line:
            yield AsyncEventStream(line, result_type)

    @asynccontextmanager
    async def _open_request(self, method: str, params: Params) -> AsyncGenerator[ClientTransport]:
        line = await ClientTransport.open(self._path)
        try:
            await line.send(Request(line.new_id(), method, params))
            yield line
        finally:
            await line.aclose()

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
        """What is answered to a request. One of those who wait reads for all, and hands that over when it is served.

        So there is no task behind a client: nothing runs when nobody asks, and every failure has somebody to go to.
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
        """Whoever leaves sees to it that somebody reads: the one it was handed to may be the one that leaves."""
        if not self._is_reading:
            unserved = (waiter for waiter in self._waiters.values() if waiter.response is None)
            for waiter in islice(unserved, 1):
                waiter.wakeup.set()

    def _deliver(self, message: FromServer) -> None:
        match message:
            case Response(id=None, result=Failure() as failure):
                raise request_failed(failure)
            case Response(id=request, result=result):
                # None: the wait was cancelled, and this is the answer to that.
                waiter = None if request is None else self._waiters.get(request)
                if waiter is not None:
                    waiter.response = result
                    waiter.wakeup.set()
            case EventNotification() | ChunkNotification():
                pass  # what sends these has a connection of its own


class _Waiter:
    """One call that waits: woken when its answer is there, or when it is its turn to read."""

    def __init__(self) -> None:
        self.response: Struct | Failure | None = None
        self.wakeup = trio.Event()


@asynccontextmanager
async def connect(socket_path: str | os.PathLike[str]) -> AsyncGenerator[AsyncClient]:
    """A client of the daemon at `socket_path`. Raises Unreachable."""
    path = os.fspath(socket_path)
    line = await ClientTransport.open(path)
    try:
        yield AsyncClient(path, line)
    finally:
        await line.aclose()
