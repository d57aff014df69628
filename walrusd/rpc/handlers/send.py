"""session.send, session.stream, session.resume and agent.run: one message, and the turn that it becomes."""

import trio

from walrus_protocol.content import MessageKind
from walrus_protocol.events import MessageQueued
from walrus_protocol.methods import AgentRunParams, SendParams, SessionParams, TurnResult
from walrusd.rpc.request_context import RequestContext
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.turns.inbox import MessageRequest, hash_content
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.session.recovery import CONTINUE_PROMPT

CLOSE_TIMEOUT_S = 10.0
"""How long the close of a run's session may take to be durable, also where its client has gone."""


async def send(context: RequestContext, params: SendParams) -> TurnResult:
    async with context.serialized():
        ticket = await context.services.runtime.send(params.session, _to_message_request(params))
    return await ticket.wait_result()


async def stream(context: RequestContext, params: SendParams) -> TurnResult:
    runtime = context.services.runtime
    async with context.serialized():
        live = await runtime.live_session(params.session)
        ticket = await runtime.send(params.session, _to_message_request(params))
    if ticket.queue_position and not ticket.started.is_set():
        kind: MessageKind = "steer" if params.when_busy == "steer" else "message"
        queued = MessageQueued(
            ts=live.deps.clock(), session=live.id, kind=kind, sender=params.sender, position=ticket.queue_position
        )
        await context.send_live_event(queued)
    return await _stream_turn(context, live, ticket)


async def resume(context: RequestContext, params: SessionParams) -> TurnResult:
    """Another try, in a turn of its own: the model goes on with the conversation as it stands."""
    async with context.serialized():
        message = MessageRequest(content=CONTINUE_PROMPT, sender="walrusd", when_busy="reject", kind="resume")
        ticket = await context.services.runtime.send(params.session, message)
    return await ticket.wait_result()


async def run(context: RequestContext, params: AgentRunParams) -> TurnResult:
    """A session of its own, which closes when its one turn has ended, whoever still listens then."""
    runtime = context.services.runtime
    hash_content(params.content)  # refused before there is a session for it
    session = await runtime.create_session(params.agent, params.created_by, title=params.title)
    live = await runtime.live_session(session)
    message = MessageRequest(content=params.content, sender=params.sender, timeout_s=params.timeout_s)
    try:
        ticket = await runtime.send(session, message)
        ticket.expect_subscriber(live.stream)
    finally:
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await runtime.close_session(session, by=params.created_by)
    return await _stream_turn(context, live, ticket)


async def _stream_turn(context: RequestContext, live: LiveSession, handle: TurnHandle) -> TurnResult:
    """The turn's events, then its result. A repeated send replays the events that are in the log."""
    with await handle.subscribe(live.stream) as reader:
        while not handle.is_at_end(reader) and await context.forward_events(reader, handle.includes):
            pass
    return await handle.wait_result()


def _to_message_request(params: SendParams) -> MessageRequest:
    return MessageRequest(
        content=params.content,
        sender=params.sender,
        key=params.key,
        when_busy=params.when_busy,
        timeout_s=params.timeout_s,
    )
