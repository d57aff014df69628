"""Handlers of session.attach, session.wait and event.subscribe."""

from functools import partial

import trio

from walrus_protocol.methods import AttachParams, AttachResult, WaitParams, WaitResult
from walrus_protocol.methods.subscribe import SubscribeParams, SubscribeResult
from walrus_protocol.problems import Problem
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes
from walrusd.runtime.errors import session_not_found
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.streams.items import LoggedEvent, StreamItem
from walrusd.store.contract import StreamFilter
from walrusd.store.tables.session import SessionFilter


def routes(runtime: Runtime) -> Routes:
    return {
        "session.attach": partial(attach, runtime),
        "session.wait": partial(wait, runtime),
        "event.subscribe": partial(subscribe, runtime),
    }


async def attach(runtime: Runtime, context: RequestContext, params: AttachParams) -> AttachResult:
    """Sends the events of a session, from the log and then live.

    No logged event is skipped, however slow the client.
    """
    async with runtime.session_cache.lease(params.session) as live:
        state = live.session.state
        if params.since > state.last_seq:
            raise Problem(
                "offset_in_future",
                f"session {live.id} ends at seq {state.last_seq}, before {params.since}",
                "Attach since the last seq that you received, or since 0 for the beginning.",
            )
        until = None if params.follow else state.last_seq

        def is_wanted(item: StreamItem) -> bool:
            return until is None or item.session_seq <= until

        with live.stream.subscribe(
            params.since, deltas=params.follow and params.deltas, announce_caught_up=params.follow
        ) as subscription:
            while until is None or subscription.cursor < until:
                await context.forward_events(subscription, is_wanted)
                if live.session.state.state == "closed" and not subscription.has_pending:
                    return AttachResult(last_seq=subscription.cursor, reason="closed")
        return AttachResult(last_seq=until, reason="end")


async def subscribe(runtime: Runtime, context: RequestContext, params: SubscribeParams) -> SubscribeResult:
    """Sends the events of all sessions, by offset.

    A subscription to selected sessions ends when they are all closed; one to all sessions does not end.
    """
    stream = runtime.global_stream
    last = stream.last_offset
    if params.since is not None and params.since > last:
        raise Problem(
            "offset_in_future",
            f"the log ends at offset {last}, before {params.since}",
            "Subscribe since the last offset that you received, or since 0 for the beginning.",
        )

    def is_wanted(item: StreamItem) -> bool:
        return params.follow or (isinstance(item, LoggedEvent) and item.offset <= last)

    with stream.subscribe(params.since, _to_stream_filter(params), announce_caught_up=params.follow) as subscription:
        if params.follow and params.sessions:
            stream.end_with_sessions(subscription)
        for session in params.sessions or ():
            if await _is_closed(runtime, session):
                stream.mark_session_closed(subscription, session)
        for agent in params.agents or ():
            await _check_agent(runtime, agent)
        if not params.follow:
            subscription.end()
        while params.follow or subscription.cursor < last:
            if not await context.forward_events(subscription, is_wanted):
                break
        return SubscribeResult(
            last_offset=subscription.cursor if params.follow else last, reason="closed" if params.follow else "end"
        )


def _to_stream_filter(params: SubscribeParams) -> StreamFilter:
    return StreamFilter(
        sessions=None if params.sessions is None else frozenset(params.sessions),
        agents=None if params.agents is None else frozenset(params.agents),
        types=None if params.types is None else frozenset(params.types),
        include_deltas=params.follow and params.deltas,
    )


async def _is_closed(runtime: Runtime, session: int) -> bool:
    """Returns whether the close of a session has been published. Raises Problem session_not_found."""
    if runtime.session_cache.find_live(session) is None:
        state = await runtime.log.session_state(session)
        if state is None:
            raise session_not_found(session)
        if runtime.session_cache.find_live(session) is None:
            return state.state == "closed"
    # A live session may be closing now; its own state shows what has been published.
    async with runtime.session_cache.lease(session) as live:
        return live.session.state.state == "closed"


async def _check_agent(runtime: Runtime, name: str) -> None:
    """Raises Problem agent_not_found if the agent is not configured and has no session, thus no events."""
    if not await runtime.sessions(SessionFilter(agent=name, include_closed=True, limit=1)):
        runtime.agent(name)


async def wait(runtime: Runtime, _: RequestContext, params: WaitParams) -> WaitResult:
    limit = params.timeout_s if params.timeout_s is not None else float("inf")
    with trio.move_on_after(limit):
        return WaitResult(state=await runtime.wait(params.session, params.states))
    expected = " or ".join(params.states)
    raise Problem(
        "timeout",
        f"session {params.session} was not {expected} within {limit:g} s",
        "Wait longer, or look at it with `walrusctl session show`.",
    )
