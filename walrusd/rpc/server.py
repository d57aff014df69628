"""The server: a nursery a connection, requests side by side in it, cheap ones answered where they are read."""

import os
from collections.abc import Callable

import structlog
import trio
from msgspec import Struct

from walrus_protocol.connection import NEED_DATA, SERVER, Connection
from walrus_protocol.messages import Cancel, RejectedRequest, Request, RequestId, encode_error, encode_result
from walrus_protocol.methods import CloseParams, SendParams, SessionParams
from walrus_protocol.methods.export_import import ImportParams
from walrus_protocol.methods.fork_rewind import CheckpointParams, ForkParams, RewindParams
from walrus_protocol.problems import Problem
from walrusd.host.peer_credentials import is_descendant, read_peer_credentials
from walrusd.rpc.handlers import ASYNC_HANDLERS, SYNC_HANDLERS
from walrusd.rpc.outbox import Outbox
from walrusd.rpc.request_context import DaemonServices, RequestContext
from walrusd.rpc.request_order import OrderTicket
from walrusd.rpc.uploads import Uploads
from walrusd.store.contract import StorageFailed

log = structlog.get_logger("walrusd.rpc")

READ_BYTES = 64 * 1024
"""Bytes read at once: some thousand small requests."""
FRAME_TIMEOUT_S = 30.0
"""How long the rest of a begun frame may take. A peer on this machine that takes longer has stopped in mid-frame."""
FINAL_SEND_TIMEOUT_S = 2.0
"""How long a peer is waited for to take its last answer."""
DRAIN_TIMEOUT_S = 0.2
"""How long the requests whose turns have come to an end may take to say so; those that only watch have no end."""
MAX_IN_FLIGHT = 1024
"""Requests of one connection under way; far more than a client that reads its answers ever has."""
ALLOWED_FROM_TOOLS = frozenset({"daemon.ping", "daemon.hello"})

CANCELLED = Problem("cancelled", "the request was cancelled", "Its turn, if it began one, goes on.")
SHUTTING_DOWN = Problem(
    "shutting_down", "walrusd is stopping", "Ask again when it is back; nothing that was accepted is lost."
)
TOO_MANY_IN_FLIGHT = Problem(
    "invalid_request", f"{MAX_IN_FLIGHT} requests of this connection are under way", "Await some of the answers first."
)
SerializedParams = SessionParams | SendParams | CloseParams | ForkParams | RewindParams | CheckpointParams
SERIALIZED_METHODS = frozenset(
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
INCOMPLETE_FRAME = Problem(
    "invalid_request", f"a frame was begun and not finished within {FRAME_TIMEOUT_S:.0f} s", "Send whole frames."
)


class Server:
    """Serves connections until its tasks are cancelled."""

    def __init__(self, services: DaemonServices, max_connections: int) -> None:
        self._services = services
        self._max_connections = max_connections
        self._connections: set[_Connection] = set()
        self._progress = trio.lowlevel.ParkingLot()

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    async def drain_responses(self) -> None:
        """Answer every request before the end: those whose turns have ended or been suspended first, then the rest."""
        await self._wait_all_answered(timeout_s=DRAIN_TIMEOUT_S)
        for serving in self._connections:
            serving.cancel_all()
        await self._wait_all_answered(timeout_s=FINAL_SEND_TIMEOUT_S)

    async def _wait_all_answered(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            while any(serving.has_pending for serving in self._connections):
                await self._progress.park()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accept for ever. Being out of descriptors is waited out by trio, 100 ms at a time, and logged."""
        await trio.serve_listeners(self._serve_connection, [listener])

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        """One guard a connection: what goes wrong on it ends it, and nothing else."""
        async with stream:
            peer = read_peer_credentials(stream.socket)
            if peer.uid not in {os.getuid(), 0}:
                log.warning("connection refused", reason="another user's", uid=peer.uid)
                self._services.metrics.on_connection(rejection="another_user")
                return
            outbox = Outbox(stream.socket.fileno())
            if self.connection_count >= self._max_connections:
                self._services.metrics.on_connection(rejection="too_many")
                await self._reject_connection(outbox)
                return
            self._services.metrics.on_connection()
            from_tool = is_descendant(peer.pid, os.getpid())
            serving = _Connection(
                self._services, stream, outbox, from_tool=from_tool, on_answered=self._progress.unpark_all
            )
            self._connections.add(serving)
            try:
                await serving.run()
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the peer is gone; its turns go on
            except* Exception:
                log.exception("connection crashed", pid=peer.pid)
            finally:
                self._connections.discard(serving)
                self._progress.unpark_all()

    async def _reject_connection(self, outbox: Outbox) -> None:
        problem = Problem(
            "too_many_connections",
            f"{self._max_connections} connections are open",
            "Close some, or raise [daemon] max_connections.",
            retry_after_ms=1000,
        )
        try:
            outbox.enqueue(encode_error(None, problem))
            outbox.flush_now()
        except trio.BrokenResourceError:
            pass


class _Connection:
    """One connection: its frames, its requests under way, its outbox."""

    def __init__(
        self,
        services: DaemonServices,
        stream: trio.SocketStream,
        outbox: Outbox,
        *,
        from_tool: bool,
        on_answered: Callable[[], object],
    ) -> None:
        self._services = services
        self._stream = stream
        self._outbox = outbox
        self._from_tool = from_tool
        self._on_answered = on_answered
        self._cancel_problem = CANCELLED
        self._protocol = Connection(SERVER)
        self._in_flight: dict[RequestId, trio.CancelScope] = {}
        self._latest_tickets: dict[int | str, OrderTicket] = {}
        """Of the last request for a session, and of the last part of an upload, by its name."""
        self._uploads = Uploads(services.config().home)
        self._frame_deadline = 0.0
        """When the frame that has begun must have come."""

    @property
    def has_pending(self) -> bool:
        return bool(self._in_flight) or self._outbox.has_pending

    def cancel_all(self) -> None:
        """Cut off every request under way, and tell why."""
        self._cancel_problem = SHUTTING_DOWN
        for scope in self._in_flight.values():
            scope.cancel()

    async def run(self) -> None:
        with self._uploads:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._outbox.run_flusher, self._on_answered)
                problem = await self._read_messages(nursery)
                nursery.cancel_scope.cancel()
        if problem:
            with trio.move_on_after(FINAL_SEND_TIMEOUT_S):
                await self._send_final_error(problem)

    async def _read_messages(self, nursery: trio.Nursery) -> RejectedRequest | None:
        """Until the peer is gone, or says what cannot be read on from; the latter is its last answer."""
        while True:
            data = await self._receive()
            if data is None:
                return RejectedRequest(None, INCOMPLETE_FRAME, close=True)
            if not data:
                return None
            self._protocol.receive_data(data)
            while (message := self._protocol.next_message()) is not NEED_DATA:
                if isinstance(message, RejectedRequest) and message.close:
                    return message
                self._handle_message(message, nursery)
                if self._outbox.is_full:
                    await self._outbox.wait_capacity()
            self._outbox.flush_now()

    async def _receive(self) -> bytes | None:
        """What comes next, or None where a begun frame is not gone on with in time."""
        if not self._protocol.in_frame:
            self._frame_deadline = 0.0
            return await self._stream.receive_some(READ_BYTES)
        self._frame_deadline = self._frame_deadline or trio.current_time() + FRAME_TIMEOUT_S
        with trio.move_on_at(self._frame_deadline):
            return await self._stream.receive_some(READ_BYTES)
        return None

    def _handle_message(self, message: Request | Cancel | RejectedRequest, nursery: trio.Nursery) -> None:
        match message:
            case Request():
                self._handle_request(message, nursery)
            case Cancel(request):
                if scope := self._in_flight.get(request):
                    scope.cancel()
            case RejectedRequest(request, problem):
                log.info("request refused", error=problem.kind, message=problem.message)
                self._services.metrics.on_invalid_request(problem.kind)
                self._outbox.enqueue(encode_error(request, problem))

    def _handle_request(self, request: Request, nursery: trio.Nursery) -> None:
        problem = self._check_request(request)
        if problem:
            self._log_request(request, problem.kind)
            self._enqueue_response(request, encode_error(request.id, problem))
            return
        inline = SYNC_HANDLERS.get(request.method)
        if inline is None:
            self._in_flight[request.id] = trio.CancelScope()
            nursery.start_soon(self._run_request, request, self._make_context(request))
            return
        try:
            outcome: Struct | Problem = inline(self._services, request.params)
        except Problem as refused:
            outcome = refused
        answer, kind = _encode_response(request.id, outcome)
        self._log_request(request, kind)
        self._enqueue_response(request, answer)

    def _check_request(self, request: Request) -> Problem | None:
        if self._from_tool and request.method not in ALLOWED_FROM_TOOLS:
            return FROM_TOOL
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            return TOO_MANY_IN_FLIGHT
        return None

    def _make_context(self, request: Request) -> RequestContext:
        """Made where the request is read: its place in the order is that of its bytes."""
        place, params = OrderTicket(), request.params
        if request.method in SERIALIZED_METHODS and isinstance(params, SerializedParams):
            place = self._latest_tickets[params.session] = OrderTicket(self._latest_tickets.get(params.session))
        elif isinstance(params, ImportParams):
            place = self._latest_tickets[params.upload] = OrderTicket(self._latest_tickets.get(params.upload))
        return RequestContext(request.id, self._services, self._outbox, self._uploads, place)

    async def _run_request(self, request: Request, context: RequestContext) -> None:
        """A request that waits, in a task of its own."""
        began = trio.current_time()
        outcome = await self._run_handler(request, context)
        context.order_ticket.release()
        self._latest_tickets = {session: place for session, place in self._latest_tickets.items() if place.is_blocking}
        await (
            self._outbox.wait_capacity()
        )  # encoded only then: a thousand answers that nobody reads are a thousand references
        answer, kind = _encode_response(request.id, outcome)
        self._enqueue_response(request, answer)
        self._outbox.flush_now()
        self._on_answered()
        self._log_request(request, kind, ms=round((trio.current_time() - began) * 1000, 1))

    async def _run_handler(self, request: Request, context: RequestContext) -> Struct | Problem:
        """What is answered. The guard that turns a bug into an answer."""
        try:
            with self._in_flight[request.id]:
                return await ASYNC_HANDLERS[request.method](context, request.params)
            return self._cancel_problem
        except Problem as refused:
            return refused
        except StorageFailed as failure:
            return Problem(failure.kind, str(failure), failure.hint)
        except trio.BrokenResourceError:
            raise
        except Exception:
            log.exception("request crashed", method=request.method)
            return Problem("bug", "walrusd met a bug in this request", "The daemon's log has the details.")

    def _enqueue_response(self, request: Request, frame: bytes) -> None:
        self._in_flight.pop(request.id, None)
        self._protocol.mark_answered(request.id)
        self._outbox.enqueue(frame)

    def _log_request(self, request: Request, error: str | None, *, ms: float = 0.0) -> None:
        """Count a request, and say its canonical line. What keeps a connection alive is only seen at debug."""
        self._services.metrics.on_request(request.method, error)
        say = log.debug if request.method in ALLOWED_FROM_TOOLS else log.info
        say("request", method=request.method, session=getattr(request.params, "session", None), error=error, ms=ms)

    async def _send_final_error(self, refusal: RejectedRequest) -> None:
        self._outbox.enqueue(encode_error(refusal.id, refusal.problem))
        while True:
            self._outbox.flush_now()
            if not self._outbox.has_pending:
                return
            await trio.lowlevel.wait_writable(self._stream.socket.fileno())


def _encode_response(request: RequestId, outcome: Struct | Problem) -> tuple[bytes, str | None]:
    """The answer as bytes, and the kind of its error; a result that fits into no frame is an error too."""
    try:
        if not isinstance(outcome, Problem):
            return encode_result(request, outcome), None
    except Problem as too_large:
        outcome = too_large
    return encode_error(request, outcome), outcome.kind
