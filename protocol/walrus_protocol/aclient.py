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
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Generic, Self, TypeVar

import trio
from msgspec import Struct

from walrus_protocol import methods as m
from walrus_protocol import wire
from walrus_protocol.client import RequestFailed, Unreachable, unreachable
from walrus_protocol.connection import (
    CLIENT,
    Cancel,
    Connection,
    EventNotification,
    Failure,
    FromServer,
    Garbled,
    NeedData,
    Request,
    RequestId,
    Response,
)
from walrus_protocol.events import AnyEvent, NewerEvent, decode

_CONNECT_S = 10.0
"""How long a daemon may be too busy to take a connection."""
_SEND_S = 10.0
"""How long a request may take to be handed over to a daemon that reads."""
_READ = 65536

Result = TypeVar("Result", bound=Struct)


class _Line:
    """The socket and the sans-I/O connection: whole messages in and out."""

    def __init__(self, path: str, stream: trio.SocketStream) -> None:
        self._path = path
        self._stream = stream
        self._connection = Connection(CLIENT)
        self._sending = trio.Lock()
        self._last_id = 0

    @classmethod
    async def open(cls, path: str) -> Self:
        """Raises Unreachable."""
        return cls(path, trio.SocketStream(await _connected(path)))

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def send(self, message: Request | Cancel) -> None:
        """A frame that has begun must end: the caller's own cancellation waits for it, at most _SEND_S."""
        try:
            framed = self._connection.send(message)
        except wire.FrameTooLarge as error:
            raise RequestFailed(wire.INVALID_REQUEST, "frame_too_large", str(error), "send less at once") from error
        except UnicodeEncodeError as error:
            text = "a text holds half a surrogate pair, or bytes that are no UTF-8"
            raise RequestFailed(wire.INVALID_PARAMS, "invalid_params", text, "send text as UTF-8") from error
        with trio.move_on_after(_SEND_S, shield=True) as scope:
            try:
                async with self._sending:
                    await self._stream.send_all(framed)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # a daemon that hangs up has often said why: the read tells
        if scope.cancelled_caught:
            await trio.aclose_forcefully(self._stream)

    async def receive(self) -> FromServer:
        try:
            while isinstance(message := self._connection.next_message(), NeedData):
                data = await self._stream.receive_some(_READ)
                if not data:
                    raise self._gone()
                self._connection.receive_data(data)
        except Garbled as error:
            raise Unreachable(str(error), "see whether the socket is the right one") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error
        return message

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _gone(self) -> Unreachable:
        return Unreachable(f"walrusd at {self._path} hung up", "what it had acknowledged is kept; see its log for why")


class Events(Generic[Result]):
    """A streaming request under way: iterate over its events, then read its `result`.

    It has a connection of its own. A reader that falls behind then holds up nobody but itself: what it has not read
    yet waits in the daemon, which drops nothing but live events, and says so with a `lagged`.
    """

    def __init__(self, line: _Line, result: type[Result]) -> None:
        self._line = line
        self._kind = result
        self._result: Result | None = None

    @property
    def result(self) -> Result:
        """The method's result, once its events have been read to the end."""
        if self._result is None:
            raise RuntimeError("there is no answer yet: read the events to their end first")
        return self._result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyEvent | NewerEvent:
        if self._result is not None:
            raise StopAsyncIteration
        match await self._line.receive():
            case EventNotification(event=event):
                return decode(event)
            case Response(result=result):
                self._result = _checked(result, self._kind)
                raise StopAsyncIteration


class Client:
    """What walrusd can be asked; one method per method of the wire. Made by `connect`."""

    def __init__(self, path: str, line: _Line) -> None:
        self._path = path
        self._line = line
        self._waiting: dict[RequestId, _Waiter] = {}
        self._reading = False

    async def discover(self) -> m.Discovery:
        return await self._call("rpc.discover", m.NoParams(), m.Discovery)

    async def ping(self) -> m.Pong:
        return await self._call("daemon.ping", m.NoParams(), m.Pong)

    async def hello(self, params: m.HelloParams) -> m.Hello:
        return await self._call("daemon.hello", params, m.Hello)

    async def status(self) -> m.Status:
        return await self._call("daemon.status", m.NoParams(), m.Status)

    async def shutdown(self) -> m.Stopping:
        return await self._call("daemon.shutdown", m.NoParams(), m.Stopping)

    async def agents(self) -> m.AgentList:
        return await self._call("agent.list", m.NoParams(), m.AgentList)

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

    async def interrupt(self, params: m.SessionParams) -> m.Interrupted:
        return await self._call("session.interrupt", params, m.Interrupted)

    async def close(self, params: m.CloseParams) -> m.Closed:
        return await self._call("session.close", params, m.Closed)

    async def config(self) -> m.ConfigText:
        return await self._call("config.get", m.NoParams(), m.ConfigText)

    async def check_config(self) -> m.ConfigVerdict:
        return await self._call("config.check", m.NoParams(), m.ConfigVerdict)

    @asynccontextmanager
    async def stream(self, params: m.SendParams) -> AsyncGenerator[Events[m.TurnResult]]:
        async with self._events("session.stream", params, m.TurnResult) as events:
            yield events

    @asynccontextmanager
    async def attach(self, params: m.AttachParams) -> AsyncGenerator[Events[m.Attached]]:
        async with self._events("session.attach", params, m.Attached) as events:
            yield events

    @asynccontextmanager
    async def run(self, params: m.AgentRunParams) -> AsyncGenerator[Events[m.TurnResult]]:
        async with self._events("agent.run", params, m.TurnResult) as events:
            yield events

    @asynccontextmanager
    async def _events(self, method: str, params: m.Params, result: type[Result]) -> AsyncGenerator[Events[Result]]:
        line = await _Line.open(self._path)
        try:
            await line.send(Request(line.new_id(), method, params))
            yield Events(line, result)
        finally:
            await line.aclose()

    async def _call(self, method: str, params: m.Params, result: type[Result]) -> Result:
        request = self._line.new_id()
        try:
            answer = await self._asked(Request(request, method, params))
        except trio.Cancelled:
            with trio.move_on_after(_SEND_S, shield=True):
                await self._line.send(Cancel(request))
            raise
        return _checked(answer, result)

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
                raise _failed(failure)
            case Response(id=request, result=result):
                # None: the wait was cancelled, and this is the answer to that.
                waiter = None if request is None else self._waiting.get(request)
                if waiter is not None:
                    waiter.answer = result
                    waiter.woken.set()
            case EventNotification():
                pass  # streams have connections of their own


class _Waiter:
    """One call that waits: woken when its answer is there, or when it is its turn to read."""

    def __init__(self) -> None:
        self.answer: Struct | Failure | None = None
        self.woken = trio.Event()


@asynccontextmanager
async def connect(socket_path: str | os.PathLike[str]) -> AsyncGenerator[Client]:
    """A client of the daemon at `socket_path`. Raises Unreachable."""
    path = os.fspath(socket_path)
    line = await _Line.open(path)
    try:
        yield Client(path, line)
    finally:
        await line.aclose()


async def _connected(path: str) -> trio.socket.SocketType:
    """A connected socket. Raises Unreachable."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(0)
    try:
        with trio.move_on_after(_CONNECT_S):
            while (full := _try_connect(sock, path)) is not None:  # noqa: ASYNC110  (a backlog tells nobody that it has room)
                # A full backlog refuses at once; trio's own connect takes that for a connection under way.
                await trio.sleep(0.01)
        if full is not None:
            raise full
    except OSError as error:
        sock.close()
        raise unreachable(path, error) from error
    except BaseException:
        sock.close()
        raise
    return trio.socket.from_stdlib_socket(sock)


def _try_connect(sock: socket.socket, path: str) -> BlockingIOError | None:
    try:
        sock.connect(path)
    except BlockingIOError as full:
        return full
    return None


def _checked(result: Struct | Failure, kind: type[Result]) -> Result:
    if isinstance(result, Failure):
        raise _failed(result)
    assert isinstance(result, kind), "the connection decodes a result by the method that was asked"
    return result


def _failed(failure: Failure) -> RequestFailed:
    return RequestFailed(failure.code, failure.kind, failure.message, failure.hint, failure.data)
