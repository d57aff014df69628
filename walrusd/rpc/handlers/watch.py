"""session.attach, session.wait and event.subscribe."""

import trio

from walrus_protocol.methods import Attached, AttachParams, Waited, WaitParams
from walrus_protocol.problems import Problem
from walrus_protocol.watching import Subscribed, SubscribeParams
from walrusd.rpc.call import Call
from walrusd.runtime.bus import Fact, Item
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.told import session_not_found
from walrusd.store.log import Filter, Wanted


async def attach(call: Call, params: AttachParams) -> Attached:
    """A cursor over the log and the live window: nothing durable is left out, however slow the reader."""
    live = await call.house.runtime.live(params.session)
    outline = live.session.outline
    if params.since > outline.last_seq:
        raise Problem(
            "offset_in_future",
            f"session {live.id} ends at seq {outline.last_seq}, before {params.since}",
            "Attach since the last seq that you have seen; 0 is the beginning.",
        )
    until = None if params.follow else outline.last_seq

    def wanted(item: Item) -> bool:
        return until is None or item.position <= until

    with live.feed.reader(params.since, deltas=params.follow and params.deltas, mark=params.follow) as reader:
        while until is None or reader.cursor < until:
            await call.relay(reader, wanted)
            if live.session.outline.state == "closed" and not reader.behind:
                return Attached(last_seq=reader.cursor, reason="closed")
    return Attached(last_seq=until, reason="end")


async def subscribe(call: Call, params: SubscribeParams) -> Subscribed:
    """As `attach`, of all sessions, by offset. With some chosen it ends when these are closed; else it has no end."""
    runtime = call.house.runtime
    everything = runtime.everything
    last = everything.last_offset
    if params.since is not None and params.since > last:
        raise Problem(
            "offset_in_future",
            f"the log ends at offset {last}, before {params.since}",
            "Subscribe since the last offset that you have seen; 0 is the beginning.",
        )

    def wanted(item: Item) -> bool:
        return params.follow or (isinstance(item, Fact) and item.offset <= last)

    with everything.reader(params.since, _wanted(params), mark=params.follow) as reader:
        if params.follow and params.sessions:
            everything.end_with_sessions(reader)
        for session in params.sessions or ():
            if await _is_closed(runtime, session):
                everything.closed(reader, session)
        for agent in params.agents or ():
            await _check_agent(runtime, agent)
        if not params.follow:
            reader.end()
        while params.follow or reader.cursor < last:
            if not await call.relay(reader, wanted):
                break
        return Subscribed(
            last_offset=reader.cursor if params.follow else last, reason="closed" if params.follow else "end"
        )


def _wanted(params: SubscribeParams) -> Wanted:
    return Wanted(
        sessions=None if params.sessions is None else frozenset(params.sessions),
        agents=None if params.agents is None else frozenset(params.agents),
        types=None if params.types is None else frozenset(params.types),
        deltas=params.follow and params.deltas,
    )


async def _is_closed(runtime: Runtime, session: int) -> bool:
    """Whether its close has been published. Raises Problem session_not_found."""
    if runtime.sessions_in_memory.in_memory(session) is None:
        outline = await runtime.log.outline(session)
        if outline is None:
            raise session_not_found(session)
        if runtime.sessions_in_memory.in_memory(session) is None:
            return outline.state == "closed"
    # In memory it may be about to be closed, and is seen here as it was published.
    return (await runtime.live(session)).session.outline.state == "closed"


async def _check_agent(runtime: Runtime, name: str) -> None:
    """Raises Problem agent_not_found for a name that is not configured and that no session has: nothing would come."""
    if not await runtime.sessions(Filter(agent=name, include_closed=True, limit=1)):
        runtime.agent(name)


async def wait(call: Call, params: WaitParams) -> Waited:
    limit = params.timeout_s if params.timeout_s is not None else float("inf")
    with trio.move_on_after(limit):
        return Waited(state=await call.house.runtime.wait(params.session, params.states))
    wanted = " or ".join(params.states)
    raise Problem(
        "timeout",
        f"session {params.session} was not {wanted} within {limit:g} s",
        "Wait longer, or look at it with `walrusctl session show`.",
    )
