"""session.attach and session.wait."""

import trio

from walrus_protocol.methods import Attached, AttachParams, Waited, WaitParams
from walrus_protocol.problems import Problem
from walrusd.rpc.call import Call
from walrusd.runtime.bus import Item


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
