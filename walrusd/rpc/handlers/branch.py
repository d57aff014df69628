"""session.fork, rewind, checkpoint and checkpoints."""

from walrus_protocol.branches import (
    CheckpointInfo,
    CheckpointList,
    CheckpointMade,
    CheckpointParams,
    CheckpointsParams,
    Forked,
    ForkParams,
    RewindParams,
    WentBack,
)
from walrusd.rpc.call import Call
from walrusd.rpc.handlers.paging import position


async def fork(call: Call, params: ForkParams) -> Forked:
    async with call.in_order():
        return await call.house.runtime.branches.fork(params.session, params.at, created_by="client")


async def rewind(call: Call, params: RewindParams) -> WentBack:
    async with call.in_order():
        return await call.house.runtime.branches.rewind(params.session, params.to)


async def checkpoint(call: Call, params: CheckpointParams) -> CheckpointMade:
    async with call.in_order():
        return await call.house.runtime.branches.checkpoint(params.session, params.name)


async def checkpoints(call: Call, params: CheckpointsParams) -> CheckpointList:
    """A page: what is made or moved while the pages are read comes on the last one."""
    after = 0 if params.cursor is None else position(params.cursor)
    found = [one for one in await call.house.runtime.branches.checkpoints(params.session) if one.seq > after]
    page = found[: params.limit]  # 500 of the longest names are half of what a page may be
    told = tuple(CheckpointInfo(name=one.name, at=one.at, ts=one.ts) for one in page)
    return CheckpointList(checkpoints=told, cursor=str(page[-1].seq) if len(page) < len(found) else None)
