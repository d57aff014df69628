"""The server: a nursery a connection, requests side by side in it, cheap ones answered where they are read."""

import os
from collections.abc import Callable

import structlog
import trio
from msgspec import Struct

from walrus_protocol.branches import CheckpointParams, ForkParams, RewindParams
from walrus_protocol.connection import NEED_DATA, SERVER, Connection
from walrus_protocol.messages import Cancel, Refusal, Request, RequestId, encode_error, encode_result
from walrus_protocol.methods import CloseParams, SendParams, SessionParams
from walrus_protocol.portable import ImportParams
from walrus_protocol.problems import Problem
from walrusd.host.process import descends_from, peer_of
from walrusd.rpc.call import Call, House
from walrusd.rpc.handlers import INLINE, WAITING
from walrusd.rpc.order import Place
from walrusd.rpc.outbox import Outbox
from walrusd.rpc.uploads import Uploads
from walrusd.store.log import StorageFailed

log = structlog.get_logger("walrusd.rpc")

READ = 64 * 1024
"""Bytes read at once: some thousand small requests."""
FRAME_S = 30.0
"""How long the rest of a begun frame may take. A peer on this machine that takes longer has stopped in mid-frame."""
LAST_WORDS_S = 2.0
"""How long a peer is waited for to take its last answer."""
ANSWERS_S = 0.2
"""How long the requests whose turns have come to an end may take to say so; those that only watch have no end."""
IN_FLIGHT = 1024
"""Requests of one connection under way; far more than a client that reads its answers ever has."""
TOOLS_MAY = frozenset({"daemon.ping", "daemon.hello"})

CANCELLED = Problem("cancelled", "the request was cancelled", "Its turn, if it began one, goes on.")
STOPPING = Problem(
    "shutting_down", "walrusd is stopping", "Ask again when it is back; nothing that was accepted is lost."
)
IN_FLIGHT_FULL = Problem(
    "invalid_request", f"{IN_FLIGHT} requests of this connection are under way", "Await some of the answers first."
)
Ordered = SessionParams | SendParams | CloseParams | ForkParams | RewindParams | CheckpointParams
IN_ORDER = frozenset(
    {
        "session.send",
        "session.stream",
        "session.resume",
        "session.interrupt",
        "session.close",
        "session.fork",
        "session.rewind",
        "session.checkpoint",
    }
)
"""What one connection asks of one session takes effect in the order in which it was sent. Trio's tasks have none."""
FROM_TOOL = Problem(
    "from_tool",
    "this process was started by walrusd's own tools",
    "Only a person's own programs may steer the daemon: else a model could approve what it asks for.",
)
HALF_A_FRAME = Problem(
    "invalid_request", f"a frame was begun and not finished within {FRAME_S:.0f} s", "Send whole frames."
)


class Server:
    """Serves connections until its tasks are cancelled."""

    def __init__(self, house: House, most_connections: int) -> None:
        self._house = house
        self._most = most_connections
        self._serving: set[_Serving] = set()
        self._answered = trio.lowlevel.ParkingLot()

    @property
    def connections(self) -> int:
        return len(self._serving)

    async def last_words(self) -> None:
        """Answer every request before the end: those whose turns have ended or been suspended first, then the rest."""
        await self._all_said(within_s=ANSWERS_S)
        for serving in self._serving:
            serving.refuse_all()
        await self._all_said(within_s=LAST_WORDS_S)

    async def _all_said(self, within_s: float) -> None:
        with trio.move_on_after(within_s):
            while any(serving.has_more_to_say for serving in self._serving):
                await self._answered.park()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accept for ever. Being out of descriptors is waited out by trio, 100 ms at a time, and logged."""
        await trio.serve_listeners(self._connected, [listener])

    async def _connected(self, stream: trio.SocketStream) -> None:
        """One guard a connection: what goes wrong on it ends it, and nothing else."""
        async with stream:
            peer = peer_of(stream.socket)
            if peer.uid not in {os.getuid(), 0}:
                log.warning("connection refused", reason="another user's", uid=peer.uid)
                self._house.metrics.on_connection(refused="another_user")
                return
            outbox = Outbox(stream.socket.fileno())
            if self.connections >= self._most:
                self._house.metrics.on_connection(refused="too_many")
                await self._turn_away(outbox)
                return
            self._house.metrics.on_connection()
            from_tool = descends_from(peer.pid, os.getpid())
            serving = _Serving(self._house, stream, outbox, from_tool=from_tool, answered=self._answered.unpark_all)
            self._serving.add(serving)
            try:
                await serving.run()
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the peer is gone; its turns go on
            except* Exception:
                log.exception("connection crashed", pid=peer.pid)
            finally:
                self._serving.discard(serving)
                self._answered.unpark_all()

    async def _turn_away(self, outbox: Outbox) -> None:
        problem = Problem(
            "too_many_connections",
            f"{self._most} connections are open",
            "Close some, or raise [daemon] max_connections.",
            retry_after_ms=1000,
        )
        try:
            outbox.put(encode_error(None, problem))
            outbox.push()
        except trio.BrokenResourceError:
            pass


class _Serving:
    """One connection: its frames, its requests under way, its outbox."""

    def __init__(
        self,
        house: House,
        stream: trio.SocketStream,
        outbox: Outbox,
        *,
        from_tool: bool,
        answered: Callable[[], object],
    ) -> None:
        self._house = house
        self._stream = stream
        self._outbox = outbox
        self._from_tool = from_tool
        self._answered = answered
        self._cut_off = CANCELLED
        self._connection = Connection(SERVER)
        self._under_way: dict[RequestId, trio.CancelScope] = {}
        self._latest: dict[int | str, Place] = {}
        """Of the last request for a session, and of the last part of an upload, by its name."""
        self._uploads = Uploads(house.config().home)
        self._frame_by = 0.0
        """When the frame that has begun must have come."""

    @property
    def has_more_to_say(self) -> bool:
        return bool(self._under_way) or self._outbox.waiting

    def refuse_all(self) -> None:
        """Cut off every request under way, and tell why."""
        self._cut_off = STOPPING
        for scope in self._under_way.values():
            scope.cancel()

    async def run(self) -> None:
        with self._uploads:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._outbox.flush, self._answered)
                problem = await self._read(nursery)
                nursery.cancel_scope.cancel()
        if problem:
            with trio.move_on_after(LAST_WORDS_S):
                await self._send_last(problem)

    async def _read(self, nursery: trio.Nursery) -> Refusal | None:
        """Until the peer is gone, or says what cannot be read on from; the latter is its last answer."""
        while True:
            data = await self._receive()
            if data is None:
                return Refusal(None, HALF_A_FRAME, close=True)
            if not data:
                return None
            self._connection.receive_data(data)
            while (message := self._connection.next_message()) is not NEED_DATA:
                if isinstance(message, Refusal) and message.close:
                    return message
                self._act_on(message, nursery)
                if self._outbox.full:
                    await self._outbox.room()
            self._outbox.push()

    async def _receive(self) -> bytes | None:
        """What comes next, or None where a begun frame is not gone on with in time."""
        if not self._connection.in_frame:
            self._frame_by = 0.0
            return await self._stream.receive_some(READ)
        self._frame_by = self._frame_by or trio.current_time() + FRAME_S
        with trio.move_on_at(self._frame_by):
            return await self._stream.receive_some(READ)
        return None

    def _act_on(self, message: Request | Cancel | Refusal, nursery: trio.Nursery) -> None:
        match message:
            case Request():
                self._take(message, nursery)
            case Cancel(request):
                if scope := self._under_way.get(request):
                    scope.cancel()
            case Refusal(request, problem):
                log.info("request refused", error=problem.kind, message=problem.message)
                self._house.metrics.on_refusal(problem.kind)
                self._outbox.put(encode_error(request, problem))

    def _take(self, request: Request, nursery: trio.Nursery) -> None:
        problem = self._refusal_of(request)
        if problem:
            self._tell(request, problem.kind)
            self._answer(request, encode_error(request.id, problem))
            return
        inline = INLINE.get(request.method)
        if inline is None:
            self._under_way[request.id] = trio.CancelScope()
            nursery.start_soon(self._serve, request, self._call(request))
            return
        try:
            outcome: Struct | Problem = inline(self._house, request.params)
        except Problem as refused:
            outcome = refused
        answer, kind = _framed(request.id, outcome)
        self._tell(request, kind)
        self._answer(request, answer)

    def _refusal_of(self, request: Request) -> Problem | None:
        if self._from_tool and request.method not in TOOLS_MAY:
            return FROM_TOOL
        if len(self._under_way) >= IN_FLIGHT:
            return IN_FLIGHT_FULL
        return None

    def _call(self, request: Request) -> Call:
        """Made where the request is read: its place in the order is that of its bytes."""
        place, params = Place(), request.params
        if request.method in IN_ORDER and isinstance(params, Ordered):
            place = self._latest[params.session] = Place(self._latest.get(params.session))
        elif isinstance(params, ImportParams):
            place = self._latest[params.upload] = Place(self._latest.get(params.upload))
        return Call(request.id, self._house, self._outbox, self._uploads, place)

    async def _serve(self, request: Request, call: Call) -> None:
        """A request that waits, in a task of its own."""
        began = trio.current_time()
        outcome = await self._outcome(request, call)
        call.place.leave()
        self._latest = {session: place for session, place in self._latest.items() if place.holds_up}
        await self._outbox.room()  # encoded only then: a thousand answers that nobody reads are a thousand references
        answer, kind = _framed(request.id, outcome)
        self._answer(request, answer)
        self._outbox.push()
        self._answered()
        self._tell(request, kind, ms=round((trio.current_time() - began) * 1000, 1))

    async def _outcome(self, request: Request, call: Call) -> Struct | Problem:
        """What is answered. The guard that turns a bug into an answer."""
        try:
            with self._under_way[request.id]:
                return await WAITING[request.method](call, request.params)
            return self._cut_off
        except Problem as refused:
            return refused
        except StorageFailed as failure:
            return Problem(failure.kind, str(failure), failure.hint)
        except trio.BrokenResourceError:
            raise
        except Exception:
            log.exception("request crashed", method=request.method)
            return Problem("bug", "walrusd met a bug in this request", "The daemon's log has the details.")

    def _answer(self, request: Request, frame: bytes) -> None:
        self._under_way.pop(request.id, None)
        self._connection.answered(request.id)
        self._outbox.put(frame)

    def _tell(self, request: Request, error: str | None, *, ms: float = 0.0) -> None:
        """Count a request, and say its canonical line. What keeps a connection alive is only seen at debug."""
        self._house.metrics.on_request(request.method, error)
        say = log.debug if request.method in TOOLS_MAY else log.info
        say("request", method=request.method, session=getattr(request.params, "session", None), error=error, ms=ms)

    async def _send_last(self, refusal: Refusal) -> None:
        self._outbox.put(encode_error(refusal.id, refusal.problem))
        while True:
            self._outbox.push()
            if not self._outbox.waiting:
                return
            await trio.lowlevel.wait_writable(self._stream.socket.fileno())


def _framed(request: RequestId, outcome: Struct | Problem) -> tuple[bytes, str | None]:
    """The answer as bytes, and the kind of its error; a result that fits into no frame is an error too."""
    try:
        if not isinstance(outcome, Problem):
            return encode_result(request, outcome), None
    except Problem as too_large:
        outcome = too_large
    return encode_error(request, outcome), outcome.kind
