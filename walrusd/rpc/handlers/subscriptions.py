"""session.attach, session.wait and event.subscribe."""

import trio

from walrus_protocol.methods import AttachParams, AttachResult, WaitParams, WaitResult
from walrus_protocol.methods.subscribe import SubscribeParams, SubscribeResult
from walrus_protocol.problems import Problem
from walrusd.rpc.request_context import RequestContext
from walrusd.runtime.errors import session_not_found
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.streams.items import LoggedEvent, StreamItem
from walrusd.store.contract import SessionFilter, StreamFilter


async def attach(context: RequestContext, params: AttachParams) -> AttachResult:
    """A cursor over the log and the live window: nothing durable is left out, however slow the reader."""
    live = await context.services.runtime.live_session(params.session)
    outline = live.session.state
    if params.since > outline.last_seq:
        raise Problem(
            "offset_in_future",
            f"session {live.id} ends at seq {outline.last_seq}, before {params.since}",
            "Attach since the last seq that you have seen; 0 is the beginning.",
        )
    until = None if params.follow else outline.last_seq

    def wanted(item: StreamItem) -> bool:
        return until is None or item.session_seq <= until

    with live.stream.subscribe(
        params.since, deltas=params.follow and params.deltas, announce_caught_up=params.follow
    ) as reader:
        while until is None or reader.cursor < until:
            await context.forward_events(reader, wanted)
            if live.session.state.state == "closed" and not reader.has_pending:
                return AttachResult(last_seq=reader.cursor, reason="closed")
    return AttachResult(last_seq=until, reason="end")


async def subscribe(context: RequestContext, params: SubscribeParams) -> SubscribeResult:
    """As `attach`, of all sessions, by offset. With some chosen it ends when these are closed; else it has no end."""
    runtime = context.services.runtime
    everything = runtime.global_stream
    last = everything.last_offset
    if params.since is not None and params.since > last:
        raise Problem(
            "offset_in_future",
            f"the log ends at offset {last}, before {params.since}",
            "Subscribe since the last offset that you have seen; 0 is the beginning.",
        )

    def wanted(item: StreamItem) -> bool:
        return params.follow or (isinstance(item, LoggedEvent) and item.offset <= last)

    with everything.subscribe(params.since, _to_stream_filter(params), announce_caught_up=params.follow) as reader:
        if params.follow and params.sessions:
            everything.end_with_sessions(reader)
        for session in params.sessions or ():
            if await _is_closed(runtime, session):
                everything.mark_session_closed(reader, session)
        for agent in params.agents or ():
            await _check_agent(runtime, agent)
        if not params.follow:
            reader.end()
        while params.follow or reader.cursor < last:
            if not await context.forward_events(reader, wanted):
                break
        return SubscribeResult(
            last_offset=reader.cursor if params.follow else last, reason="closed" if params.follow else "end"
        )


def _to_stream_filter(params: SubscribeParams) -> StreamFilter:
    return StreamFilter(
        sessions=None if params.sessions is None else frozenset(params.sessions),
        agents=None if params.agents is None else frozenset(params.agents),
        types=None if params.types is None else frozenset(params.types),
        include_deltas=params.follow and params.deltas,
    )


async def _is_closed(runtime: Runtime, session: int) -> bool:
    """Whether its close has been published. Raises Problem session_not_found."""
    if runtime.session_cache.find_live(session) is None:
        outline = await runtime.log.session_state(session)
        if outline is None:
            raise session_not_found(session)
        if runtime.session_cache.find_live(session) is None:
            return outline.state == "closed"
    # In memory it may be about to be closed, and is seen here as it was published.
    return (await runtime.live_session(session)).session.state.state == "closed"


async def _check_agent(runtime: Runtime, name: str) -> None:
    """Raises Problem agent_not_found for a name that is not configured and that no session has: nothing would come."""
    if not await runtime.sessions(SessionFilter(agent=name, include_closed=True, limit=1)):
        runtime.agent(name)


async def wait(context: RequestContext, params: WaitParams) -> WaitResult:
    limit = params.timeout_s if params.timeout_s is not None else float("inf")
    with trio.move_on_after(limit):
        return WaitResult(state=await context.services.runtime.wait(params.session, params.states))
    wanted = " or ".join(params.states)
    raise Problem(
        "timeout",
        f"session {params.session} was not {wanted} within {limit:g} s",
        "Wait longer, or look at it with `walrusctl session show`.",
    )
