"""The RPC server: a nursery for each connection, a task for each request that may wait."""

import os
from collections.abc import Awaitable
from contextlib import closing

import structlog
import trio
from msgspec import Struct

from walrus_protocol.connection import NEED_DATA, SERVER, Connection
from walrus_protocol.messages import Cancel, RejectedRequest, Request, RequestId, encode_error, encode_result
from walrus_protocol.methods import METHODS
from walrus_protocol.problems import Problem
from walrusd.observability.metrics import Metrics
from walrusd.rpc.outbox import Outbox
from walrusd.rpc.request_context import OrderTicket, Principal, RequestContext, read_principal
from walrusd.rpc.routes import Routes, check_routes
from walrusd.rpc.uploads import Uploads

log = structlog.get_logger("walrusd.rpc")

READ_BYTES = 64 * 1024
"""Maximum bytes read at once: some thousand small requests."""
FRAME_TIMEOUT_S = 30.0
"""Maximum seconds from the start of a frame to its end; a local peer that takes longer is stuck."""
FINAL_SEND_TIMEOUT_S = 2.0
"""Maximum seconds for a peer to take its last answer."""
DRAIN_TIMEOUT_S = 0.2
"""Maximum seconds to answer the requests whose turns have ended.

Subscriptions have no end, and are cancelled then.
"""
MAX_IN_FLIGHT = 1024
"""Maximum requests of one connection that run at once; a client that reads its answers has far fewer."""

CANCELLED = Problem("cancelled", "the request was cancelled", "If it started a turn, the turn continues.")
SHUTTING_DOWN = Problem(
    "shutting_down", "walrusd is stopping", "Try again when it is back. No accepted message is lost."
)
TOO_MANY_IN_FLIGHT = Problem(
    "invalid_request",
    f"{MAX_IN_FLIGHT} requests of this connection are in progress",
    "Wait for some of the answers first.",
)
FROM_TOOL = Problem(
    "from_tool",
    "this process was started by walrusd's own tools",
    "Only programs that a person starts may control the daemon. Otherwise a model could approve its own requests.",
)
INCOMPLETE_FRAME = Problem(
    "invalid_request", f"a frame was not completed within {FRAME_TIMEOUT_S:.0f} s", "Send whole frames."
)


class Server:
    """Serves connections until its tasks are cancelled."""

    def __init__(self, routes: Routes, metrics: Metrics, *, max_connections: int, upload_folder: str) -> None:
        """Raises ValueError unless there is a fitting handler for each method, and for nothing else."""
        check_routes(routes)
        self.routes = routes
        self.metrics = metrics
        self.upload_folder = upload_folder
        self.progress = trio.lowlevel.ParkingLot()
        """Its waiters are woken when a request is answered or a connection ends."""
        self._max_connections = max_connections
        self._connections: set[_Connection] = set()

    async def drain_responses(self) -> None:
        """Answers all requests before the stop: those whose turns have ended, then the rest with an error."""
        await self._wait_all_answered(timeout_s=DRAIN_TIMEOUT_S)
        for connection in self._connections:
            connection.cancel_all()
        await self._wait_all_answered(timeout_s=FINAL_SEND_TIMEOUT_S)

    async def _wait_all_answered(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            while any(connection.has_pending for connection in self._connections):
                await self.progress.park()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accepts connections until cancelled. If descriptors run out, trio logs it and retries every 100 ms."""
        await trio.serve_listeners(self._serve_connection, [listener])

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        """Serves one connection; an exception ends this connection and no other."""
        async with stream:
            principal = read_principal(stream.socket)
            if principal.uid not in {os.getuid(), 0}:
                log.warning("connection_refused", reason="another user", uid=principal.uid, pid=principal.pid)
                self.metrics.on_connection(rejection="another_user")
                return
            outbox = Outbox(stream.socket.fileno())
            if len(self._connections) >= self._max_connections:
                self.metrics.on_connection(rejection="too_many")
                await self._reject_connection(outbox)
                return
            self.metrics.on_connection()
            log.debug("connection_opened", kind=principal.kind, uid=principal.uid, pid=principal.pid)
            connection = _Connection(self, stream, outbox, principal)
            self._connections.add(connection)
            try:
                await connection.run()
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the peer has disconnected; its turns continue
            except* Exception:
                log.exception("connection_crashed", pid=principal.pid)
            finally:
                self._connections.discard(connection)
                self.metrics.on_disconnection()
                self.progress.unpark_all()

    async def _reject_connection(self, outbox: Outbox) -> None:
        problem = Problem(
            "too_many_connections",
            f"{self._max_connections} connections are open",
            "Close some of them, or raise [daemon] max_connections.",
            retry_after_ms=1000,
        )
        try:
            outbox.enqueue(encode_error(None, problem))
            outbox.flush_now()
        except trio.BrokenResourceError:
            pass


class _Connection:
    """One connection: its frames, its requests in progress and its outbox."""

    def __init__(self, server: Server, stream: trio.SocketStream, outbox: Outbox, principal: Principal) -> None:
        self._routes = server.routes
        self._metrics = server.metrics
        self._on_answered = server.progress.unpark_all
        self._uploads = Uploads(server.upload_folder)
        self._stream = stream
        self._outbox = outbox
        self._principal = principal
        self._cancel_problem = CANCELLED
        self._protocol = Connection(SERVER)
        self._in_flight: dict[RequestId, trio.CancelScope] = {}
        self._latest_tickets: dict[int | str, OrderTicket] = {}
        """The ticket of the latest request for each session, and of the latest part of each upload, by name."""
        self._frame_deadline = 0.0
        """Trio time at which the current frame must be complete; 0 between frames."""

    @property
    def has_pending(self) -> bool:
        return bool(self._in_flight) or self._outbox.has_pending

    def cancel_all(self) -> None:
        """Cancels every request in progress; each is answered with `shutting_down`."""
        self._cancel_problem = SHUTTING_DOWN
        for scope in self._in_flight.values():
            scope.cancel()

    async def run(self) -> None:
        with closing(self._uploads):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._outbox.run_flusher, self._on_answered)
                rejected = await self._read_messages(nursery)
                nursery.cancel_scope.cancel()
        if rejected:
            with trio.move_on_after(FINAL_SEND_TIMEOUT_S):
                await self._send_final_error(rejected)

    async def _read_messages(self, nursery: trio.Nursery) -> RejectedRequest | None:
        """Handles messages until the peer closes, or until an error after which the stream cannot be read.

        Returns that error, which is the last answer, or None.
        """
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
        """Returns the next bytes, or None if a frame is not completed in time."""
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
                log.info("request_rejected", error=problem.kind, message=problem.message)
                self._metrics.on_invalid_request(problem.kind)
                self._outbox.enqueue(encode_error(request, problem))

    def _handle_request(self, request: Request, nursery: trio.Nursery) -> None:
        problem = self._check_request(request)
        if problem:
            self._log_request(request, problem.kind)
            self._enqueue_response(request, encode_error(request.id, problem))
            return
        context = self._make_context(request)
        if not METHODS[request.method].inline:
            self._in_flight[request.id] = trio.CancelScope()
            nursery.start_soon(self._run_request, request, context)
            return
        outcome: Struct | Awaitable[Struct] | Problem
        try:
            outcome = self._routes[request.method](context, request.params)
        except Problem as error:
            outcome = error
        assert isinstance(outcome, Struct | Problem), "check_routes found that it does not wait"
        frame, kind = _encode_response(request.id, outcome)
        self._log_request(request, kind)
        self._enqueue_response(request, frame)

    def _check_request(self, request: Request) -> Problem | None:
        if self._principal.kind == "tool" and not METHODS[request.method].from_tool:
            return FROM_TOOL
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            return TOO_MANY_IN_FLIGHT
        return None

    def _make_context(self, request: Request) -> RequestContext:
        """Makes the context when the request is read, so that its order ticket follows the order of the bytes."""
        ticket = OrderTicket()
        if (param := METHODS[request.method].order_by) is not None:
            key: int | str = getattr(request.params, param)
            ticket.previous = self._latest_tickets.get(key)
            self._latest_tickets[key] = ticket
        return RequestContext(request.id, self._principal, self._outbox, self._uploads, ticket)

    async def _run_request(self, request: Request, context: RequestContext) -> None:
        """Runs and answers a request in a task of its own."""
        began = trio.current_time()
        outcome = await self._run_handler(request, context)
        context.order_ticket.release()
        self._latest_tickets = {key: ticket for key, ticket in self._latest_tickets.items() if ticket.is_blocking}
        # Encoded only when there is capacity: a thousand answers that the client does not read stay references.
        await self._outbox.wait_capacity()
        frame, kind = _encode_response(request.id, outcome)
        self._enqueue_response(request, frame)
        self._outbox.flush_now()
        self._on_answered()
        self._log_request(request, kind, ms=round((trio.current_time() - began) * 1000, 1))

    async def _run_handler(self, request: Request, context: RequestContext) -> Struct | Problem:
        """Returns the handler's result or Problem; cancellation or a bug becomes a Problem."""
        try:
            with self._in_flight[request.id]:
                result = self._routes[request.method](context, request.params)
                assert not isinstance(result, Struct), "check_routes found that it waits"
                return await result
            return self._cancel_problem
        except Problem as problem:
            return problem
        except trio.BrokenResourceError:
            raise
        except Exception:
            log.exception("request_crashed", method=request.method)
            return Problem(
                "bug", "this request failed because of a bug in walrusd", "The daemon's log has the details."
            )

    def _enqueue_response(self, request: Request, frame: bytes) -> None:
        self._in_flight.pop(request.id, None)
        self._protocol.mark_answered(request.id)
        self._outbox.enqueue(frame)

    def _log_request(self, request: Request, error: str | None, *, ms: float = 0.0) -> None:
        """Counts a request and logs its line; pings and hellos are logged at debug level."""
        self._metrics.on_request(request.method, error)
        write = log.debug if METHODS[request.method].from_tool else log.info
        write("request", method=request.method, session=getattr(request.params, "session", None), error=error, ms=ms)

    async def _send_final_error(self, rejected: RejectedRequest) -> None:
        self._outbox.enqueue(encode_error(rejected.id, rejected.problem))
        while True:
            self._outbox.flush_now()
            if not self._outbox.has_pending:
                return
            await trio.lowlevel.wait_writable(self._stream.socket.fileno())


def _encode_response(request: RequestId, outcome: Struct | Problem) -> tuple[bytes, str | None]:
    """Returns the response as bytes and the kind of its error; a result too large for a frame is an error."""
    try:
        if not isinstance(outcome, Problem):
            return encode_result(request, outcome), None
    except Problem as too_large:
        outcome = too_large
    return encode_error(request, outcome), outcome.kind
