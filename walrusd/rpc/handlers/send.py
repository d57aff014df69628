"""session.send, session.stream, session.resume and agent.run: one message, and the turn that it becomes."""

import trio

from walrus_protocol.content import MessageKind
from walrus_protocol.events import MessageQueued
from walrus_protocol.methods import AgentRunParams, SendParams, SessionParams, TurnResult
from walrusd.rpc.call import Call
from walrusd.runtime.inbox import Incoming, digest_of
from walrusd.runtime.sessions import LiveSession
from walrusd.runtime.tickets import Ticket
from walrusd.session.mend import GO_ON

CLOSE_S = 10.0
"""How long the close of a run's session may take to be durable, also where its client has gone."""


async def send(call: Call, params: SendParams) -> TurnResult:
    async with call.in_order():
        ticket = await call.house.runtime.send(params.session, _incoming(params))
    return await ticket.outcome()


async def stream(call: Call, params: SendParams) -> TurnResult:
    runtime = call.house.runtime
    async with call.in_order():
        live = await runtime.live(params.session)
        ticket = await runtime.send(params.session, _incoming(params))
    if ticket.position and not ticket.started.is_set():
        kind: MessageKind = "steer" if params.when_busy == "steer" else "message"
        queued = MessageQueued(
            ts=live.shared.clock(), session=live.id, kind=kind, sender=params.sender, position=ticket.position
        )
        await call.say(queued)
    return await _stream(call, live, ticket)


async def resume(call: Call, params: SessionParams) -> TurnResult:
    """Another try, in a turn of its own: the model goes on with the conversation as it stands."""
    async with call.in_order():
        message = Incoming(content=GO_ON, sender="walrusd", when_busy="reject", kind="resume")
        ticket = await call.house.runtime.send(params.session, message)
    return await ticket.outcome()


async def run(call: Call, params: AgentRunParams) -> TurnResult:
    """A session of its own, which closes when its one turn has ended, whoever still listens then."""
    runtime = call.house.runtime
    digest_of(params.content)  # refused before there is a session for it
    session = await runtime.create_session(params.agent, params.created_by, title=params.title)
    live = await runtime.live(session)
    message = Incoming(content=params.content, sender=params.sender, timeout_s=params.timeout_s)
    try:
        ticket = await runtime.send(session, message)
        ticket.expect_listener(live.feed)
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await runtime.close_session(session, by=params.created_by)
    return await _stream(call, live, ticket)


async def _stream(call: Call, live: LiveSession, ticket: Ticket) -> TurnResult:
    """The turn's events, then its result. A repeated send replays the events that are in the log."""
    with await ticket.listen(live.feed) as reader:
        while not ticket.all_read(reader) and await call.relay(reader, ticket.owns):
            pass
    return await ticket.outcome()


def _incoming(params: SendParams) -> Incoming:
    return Incoming(
        content=params.content,
        sender=params.sender,
        key=params.key,
        when_busy=params.when_busy,
        timeout_s=params.timeout_s,
    )
