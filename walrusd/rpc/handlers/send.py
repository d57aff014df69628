"""Handlers of session.send, session.stream, session.resume and agent.run: a message and its turn."""

from functools import partial

import trio

from walrus_protocol.content import MessageKind
from walrus_protocol.events import MessageQueued
from walrus_protocol.methods import AgentRunParams, SendParams, SessionParams, TurnResult
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.turns.inbox import MessageRequest, hash_content
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.session.recovery import CONTINUE_PROMPT

CLOSE_TIMEOUT_S = 10.0
"""Maximum seconds to record the close of an agent.run session, even if its client has disconnected."""


def routes(runtime: Runtime) -> Routes:
    return {
        "session.send": partial(send, runtime),
        "session.stream": partial(stream, runtime),
        "session.resume": partial(resume, runtime),
        "agent.run": partial(run, runtime),
    }


async def send(runtime: Runtime, context: RequestContext, params: SendParams) -> TurnResult:
    async with context.serialized():
        handle = await runtime.send(params.session, _to_message_request(context, params))
    return await handle.wait_result()


async def stream(runtime: Runtime, context: RequestContext, params: SendParams) -> TurnResult:
    async with runtime.session_cache.lease(params.session) as live:
        async with context.serialized():
            handle = await runtime.send(params.session, _to_message_request(context, params))
        if handle.queue_position and not handle.started.is_set():
            kind: MessageKind = "steer" if params.when_busy == "steer" else "message"
            queued = MessageQueued(
                ts=live.deps.clock(), session=live.id, kind=kind, sender=params.sender, position=handle.queue_position
            )
            await context.send_live_event(queued)
        return await _stream_turn(context, live, handle)


async def resume(runtime: Runtime, context: RequestContext, params: SessionParams) -> TurnResult:
    """Continues the conversation from its current state, in a new turn."""
    async with context.serialized():
        message = MessageRequest(content=CONTINUE_PROMPT, sender="walrusd", when_busy="reject", kind="resume")
        handle = await runtime.send(params.session, message)
    return await handle.wait_result()


async def run(runtime: Runtime, context: RequestContext, params: AgentRunParams) -> TurnResult:
    """Runs one turn in a new session, which closes after the turn even if the client has disconnected."""
    hash_content(params.content)  # content that is too large is refused before a session is created
    session = await runtime.create_session(params.agent, params.created_by, title=params.title)
    message = MessageRequest(content=params.content, sender=params.sender, timeout_s=params.timeout_s)
    async with runtime.session_cache.lease(session) as live:
        try:
            handle = await runtime.send(session, message)
            handle.expect_subscriber(live.stream)
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await runtime.close_session(session, by=context.principal.by)
        return await _stream_turn(context, live, handle)


async def _stream_turn(context: RequestContext, live: LiveSession, handle: TurnHandle) -> TurnResult:
    """Sends the turn's events, then returns its result. A repeated send replays the logged events."""
    with await handle.subscribe(live.stream) as subscription:
        while not handle.is_at_end(subscription) and await context.forward_events(subscription, handle.includes):
            pass
    return await handle.wait_result()


def _to_message_request(context: RequestContext, params: SendParams) -> MessageRequest:
    return MessageRequest(
        content=params.content,
        sender=params.sender,
        by=context.principal.by,
        key=params.key,
        when_busy=params.when_busy,
        timeout_s=params.timeout_s,
    )
