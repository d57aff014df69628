"""Handlers of session.fork, session.rewind, session.checkpoint and session.checkpoints."""

from functools import partial

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
from walrusd.rpc.routes import Routes
from walrusd.runtime.runtime import Runtime


def routes(runtime: Runtime) -> Routes:
    return {
        "session.fork": partial(fork, runtime),
        "session.rewind": partial(rewind, runtime),
        "session.checkpoint": partial(checkpoint, runtime),
        "session.checkpoints": partial(checkpoints, runtime),
    }


async def fork(runtime: Runtime, context: RequestContext, params: ForkParams) -> ForkResult:
    async with context.serialized():
        return await runtime.fork_rewind.fork(params.session, params.at, created_by=context.principal.by)


async def rewind(runtime: Runtime, context: RequestContext, params: RewindParams) -> RewindResult:
    async with context.serialized():
        return await runtime.fork_rewind.rewind(params.session, params.to)


async def checkpoint(runtime: Runtime, context: RequestContext, params: CheckpointParams) -> CheckpointResult:
    async with context.serialized():
        return await runtime.fork_rewind.checkpoint(params.session, params.name)


async def checkpoints(runtime: Runtime, _: RequestContext, params: CheckpointListParams) -> CheckpointList:
    """Returns a page of checkpoints; one that is made or moved between two pages comes on the last page."""
    after = 0 if params.cursor is None else parse_cursor(params.cursor)
    all_checkpoints = await runtime.fork_rewind.checkpoints(params.session)
    following = [one for one in all_checkpoints if one.seq > after]
    page = following[: params.limit]  # 500 checkpoints with the longest names are half of the maximum page size
    infos = tuple(CheckpointInfo(name=one.name, at=one.at, ts=one.ts) for one in page)
    return CheckpointList(checkpoints=infos, cursor=str(page[-1].seq) if len(page) < len(following) else None)
