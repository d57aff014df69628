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

from walrus_protocol import branches as b
from walrus_protocol import housekeeping as h
from walrus_protocol import methods as m
from walrus_protocol import portable as p
from walrus_protocol import schedules as s
from walrus_protocol import searching, watching
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
from walrus_protocol.fields import NoParams, Params
from walrus_protocol.line import SEND_S, Line, Result, checked, failed


class _UnderWay(Generic[Result]):
    """A request whose answer comes behind what it sends. It has a connection of its own, and holds up nobody else."""

    def __init__(self, line: Line, result: type[Result]) -> None:
        self._line = line
        self._kind = result
        self._result: Result | None = None

    @property
    def result(self) -> Result:
        """The method's result, once what comes before it has been read to the end."""
        if self._result is None:
            raise RuntimeError("there is no answer yet: read what comes before it to the end first")
        return self._result

    def __aiter__(self) -> Self:
        return self

    async def _next(self) -> EventNotification | ChunkNotification:
        """What is sent next. Raises StopAsyncIteration when the result is there."""
        if self._result is not None:
            raise StopAsyncIteration
        match await self._line.receive():
            case Response(result=result):
                self._result = checked(result, self._kind)
                raise StopAsyncIteration
            case EventNotification() | ChunkNotification() as notification:
                return notification


class Events(_UnderWay[Result]):
    """A streaming request under way: iterate over its events, then read its `result`.

    What a reader that falls behind has not read yet waits in the daemon, which drops nothing but live events, and says
    so with a `lagged`.
    """

    async def __anext__(self) -> AnyEvent | NewerEvent:
        while not isinstance(sent := await self._next(), EventNotification):
            pass
        return decode(sent.event)


class Chunks(_UnderWay[Result]):
    """A document on its way: iterate over its pieces, then read the `result`."""

    async def __anext__(self) -> str:
        while not isinstance(sent := await self._next(), ChunkNotification):
            pass
        return sent.data


class Client:
    """What walrusd can be asked; one method per method of the wire. Made by `connect`."""

    def __init__(self, path: str, line: Line) -> None:
        self._path = path
        self._line = line
        self._waiting: dict[RequestId, _Waiter] = {}
        self._reading = False

    async def discover(self) -> m.Discovery:
        return await self._call("rpc.discover", NoParams(), m.Discovery)

    async def ping(self) -> h.Pong:
        return await self._call("daemon.ping", NoParams(), h.Pong)

    async def hello(self, params: h.HelloParams) -> h.Hello:
        return await self._call("daemon.hello", params, h.Hello)

    async def status(self) -> h.Status:
        return await self._call("daemon.status", NoParams(), h.Status)

    async def metrics(self, params: h.MetricsParams) -> h.Metrics:
        return await self._call("daemon.metrics", params, h.Metrics)

    async def reload(self) -> h.Reloaded:
        return await self._call("daemon.reload", NoParams(), h.Reloaded)

    async def gc(self, params: h.GcParams) -> h.Collected:
        return await self._call("daemon.gc", params, h.Collected)

    async def shutdown(self) -> h.Stopping:
        return await self._call("daemon.shutdown", NoParams(), h.Stopping)

    async def agents(self) -> m.AgentList:
        return await self._call("agent.list", NoParams(), m.AgentList)

    async def agent(self, params: m.AgentParams) -> m.AgentInfo:
        return await self._call("agent.get", params, m.AgentInfo)

    async def create(self, params: m.CreateParams) -> m.Created:
        return await self._call("session.create", params, m.Created)

    async def sessions(self, params: m.ListParams) -> m.SessionList:
        return await self._call("session.list", params, m.SessionList)

    async def session(self, params: m.SessionParams) -> m.SessionInfo:
        return await self._call("session.get", params, m.SessionInfo)

    async def send(self, params: m.SendParams) -> m.TurnResult:
        return await self._call("session.send", params, m.TurnResult)

    async def wait(self, params: m.WaitParams) -> m.Waited:
        return await self._call("session.wait", params, m.Waited)

    async def history(self, params: m.HistoryParams) -> m.History:
        return await self._call("session.history", params, m.History)

    async def search(self, params: searching.SearchParams) -> searching.Hits:
        return await self._call("session.search", params, searching.Hits)

    async def interrupt(self, params: m.SessionParams) -> m.Interrupted:
        return await self._call("session.interrupt", params, m.Interrupted)

    async def close(self, params: m.CloseParams) -> m.Closed:
        return await self._call("session.close", params, m.Closed)

    async def resume(self, params: m.SessionParams) -> m.TurnResult:
        return await self._call("session.resume", params, m.TurnResult)

    async def fork(self, params: b.ForkParams) -> b.Forked:
        return await self._call("session.fork", params, b.Forked)

    async def rewind(self, params: b.RewindParams) -> b.WentBack:
        return await self._call("session.rewind", params, b.WentBack)

    async def checkpoint(self, params: b.CheckpointParams) -> b.CheckpointMade:
        return await self._call("session.checkpoint", params, b.CheckpointMade)

    async def checkpoints(self, params: b.CheckpointsParams) -> b.CheckpointList:
        return await self._call("session.checkpoints", params, b.CheckpointList)

    @asynccontextmanager
    async def export(self, params: p.ExportParams) -> AsyncGenerator[Chunks[p.Exported]]:
        async with self._sent("session.export", params) as line:
            yield Chunks(line, p.Exported)

    async def import_(self, params: p.ImportParams) -> p.Imported:
        """The next part of a document; those of one follow each other on this client."""
        return await self._call("session.import", params, p.Imported)

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

    async def config(self) -> m.ConfigText:
        return await self._call("config.get", NoParams(), m.ConfigText)

    async def check_config(self) -> m.ConfigVerdict:
        return await self._call("config.check", NoParams(), m.ConfigVerdict)

    @asynccontextmanager
    async def stream(self, params: m.SendParams) -> AsyncGenerator[Events[m.TurnResult]]:
        async with self._events("session.stream", params, m.TurnResult) as events:
            yield events

    @asynccontextmanager
    async def attach(self, params: m.AttachParams) -> AsyncGenerator[Events[m.Attached]]:
        async with self._events("session.attach", params, m.Attached) as events:
            yield events

    @asynccontextmanager
    async def subscribe(self, params: watching.SubscribeParams) -> AsyncGenerator[Events[watching.Subscribed]]:
        async with self._events("event.subscribe", params, watching.Subscribed) as events:
            yield events

    @asynccontextmanager
    async def run(self, params: m.AgentRunParams) -> AsyncGenerator[Events[m.TurnResult]]:
        async with self._events("agent.run", params, m.TurnResult) as events:
            yield events

    @asynccontextmanager
    async def _events(self, method: str, params: Params, result: type[Result]) -> AsyncGenerator[Events[Result]]:
        async with self._sent(method, params) as line:
            yield Events(line, result)

    @asynccontextmanager
    async def _sent(self, method: str, params: Params) -> AsyncGenerator[Line]:
        line = await Line.open(self._path)
        try:
            await line.send(Request(line.new_id(), method, params))
            yield line
        finally:
            await line.aclose()

    async def _call(self, method: str, params: Params, result: type[Result]) -> Result:
        request = self._line.new_id()
        try:
            answer = await self._asked(Request(request, method, params))
        except trio.Cancelled:
            with trio.move_on_after(SEND_S, shield=True):
                await self._line.send(Cancel(request))
            raise
        return checked(answer, result)

    async def _asked(self, request: Request) -> Struct | Failure:
        """What is answered to a request. One of those who wait reads for all, and hands that over when it is served.

        So there is no task behind a client: nothing runs when nobody asks, and every failure has somebody to go to.
        """
        waiter = self._waiting[request.id] = _Waiter()
        try:
            await self._line.send(request)
            while waiter.answer is None:
                if self._reading:
                    await waiter.woken.wait()
                    waiter.woken = trio.Event()
                else:
                    await self._read_until_answered(waiter)
        finally:
            del self._waiting[request.id]
            self._hand_over()
        return waiter.answer

    async def _read_until_answered(self, waiter: "_Waiter") -> None:
        self._reading = True
        try:
            while waiter.answer is None:
                self._deliver(await self._line.receive())
        finally:
            self._reading = False

    def _hand_over(self) -> None:
        """Whoever leaves sees to it that somebody reads: the one it was handed to may be the one that leaves."""
        if not self._reading:
            unserved = (waiter for waiter in self._waiting.values() if waiter.answer is None)
            for waiter in islice(unserved, 1):
                waiter.woken.set()

    def _deliver(self, message: FromServer) -> None:
        match message:
            case Response(id=None, result=Failure() as failure):
                raise failed(failure)
            case Response(id=request, result=result):
                # None: the wait was cancelled, and this is the answer to that.
                waiter = None if request is None else self._waiting.get(request)
                if waiter is not None:
                    waiter.answer = result
                    waiter.woken.set()
            case EventNotification() | ChunkNotification():
                pass  # what sends these has a connection of its own


class _Waiter:
    """One call that waits: woken when its answer is there, or when it is its turn to read."""

    def __init__(self) -> None:
        self.answer: Struct | Failure | None = None
        self.woken = trio.Event()


@asynccontextmanager
async def connect(socket_path: str | os.PathLike[str]) -> AsyncGenerator[Client]:
    """A client of the daemon at `socket_path`. Raises Unreachable."""
    path = os.fspath(socket_path)
    line = await Line.open(path)
    try:
        yield Client(path, line)
    finally:
        await line.aclose()
