"""session.send, session.stream and agent.run: one message, and the turn that it becomes."""

from walrus_protocol.events import MessageQueued
from walrus_protocol.methods import AgentRunParams, SendParams, TurnResult
from walrusd.rpc.call import Call
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.sessions import LiveSession
from walrusd.runtime.tickets import Ticket


async def send(call: Call, params: SendParams) -> TurnResult:
    ticket = await call.house.runtime.send(params.session, _incoming(params))
    return await ticket.outcome()


async def stream(call: Call, params: SendParams) -> TurnResult:
    runtime = call.house.runtime
    live = await runtime.live(params.session)
    return await _stream(call, live, await runtime.send(params.session, _incoming(params)))


async def run(call: Call, params: AgentRunParams) -> TurnResult:
    """A session of its own, which closes when its one turn has ended, whoever still listens then."""
    runtime = call.house.runtime
    session = await runtime.create_session(params.agent, params.created_by, title=params.title)
    live = await runtime.live(session)
    message = Incoming(content=params.content, sender=params.sender, timeout_s=params.timeout_s)
    ticket = await runtime.send(session, message)
    ticket.expect_listener(live.feed)
    await runtime.close_session(session, by=params.created_by)
    return await _stream(call, live, ticket)


async def _stream(call: Call, live: LiveSession, ticket: Ticket) -> TurnResult:
    """The turn's events, then its result. A repeated send replays the events that are in the log."""
    if ticket.position and not ticket.started.is_set():
        queued = MessageQueued(ts=live.shared.clock(), session=live.id, position=ticket.position)
        await call.say(queued)
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
