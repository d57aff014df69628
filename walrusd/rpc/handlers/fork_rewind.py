"""session.fork, rewind, checkpoint and checkpoints."""

from walrus_protocol.methods.fork_rewind import (
    CheckpointInfo,
    CheckpointList,
    CheckpointListParams,
    CheckpointParams,
    CheckpointResult,
    ForkParams,
    ForkResult,
    RewindParams,
    RewindResult,
)
from walrusd.rpc.handlers.pagination import parse_cursor
from walrusd.rpc.request_context import RequestContext


async def fork(context: RequestContext, params: ForkParams) -> ForkResult:
    async with context.serialized():
        return await context.services.runtime.fork_rewind.fork(params.session, params.at, created_by="client")


async def rewind(context: RequestContext, params: RewindParams) -> RewindResult:
    async with context.serialized():
        return await context.services.runtime.fork_rewind.rewind(params.session, params.to)


async def checkpoint(context: RequestContext, params: CheckpointParams) -> CheckpointResult:
    async with context.serialized():
        return await context.services.runtime.fork_rewind.checkpoint(params.session, params.name)


async def checkpoints(context: RequestContext, params: CheckpointListParams) -> CheckpointList:
    """A page: what is made or moved while the pages are read comes on the last one."""
    after = 0 if params.cursor is None else parse_cursor(params.cursor)
    found = [one for one in await context.services.runtime.fork_rewind.checkpoints(params.session) if one.seq > after]
    page = found[: params.limit]  # 500 of the longest names are half of what a page may be
    told = tuple(CheckpointInfo(name=one.name, at=one.at, ts=one.ts) for one in page)
    return CheckpointList(checkpoints=told, cursor=str(page[-1].seq) if len(page) < len(found) else None)
