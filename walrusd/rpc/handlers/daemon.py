"""daemon.* and rpc.discover."""

import os

import trio

from walrus_protocol import discover as protocol_discover
from walrus_protocol.fields import NoParams
from walrus_protocol.housekeeping import (
    Collected,
    GcParams,
    Hello,
    HelloParams,
    Metrics,
    MetricsParams,
    Pong,
    Reloaded,
    SessionCounts,
    Status,
    Stopping,
)
from walrus_protocol.methods import Discovery
from walrus_protocol.problems import Problem
from walrus_protocol.wire import PROTOCOL
from walrusd.exposition import as_text, by_name
from walrusd.rpc.call import Call, House


def ping(_: House, __: NoParams) -> Pong:
    return Pong()


def hello(house: House, params: HelloParams) -> Hello:
    if params.protocol != PROTOCOL:
        raise Problem(
            "protocol",
            f"protocol {params.protocol} is not spoken here; {PROTOCOL} is",
            "Use a client and a daemon of the same release.",
        )
    return Hello(
        protocol=PROTOCOL, version=house.version, pid=os.getpid(), home=house.config().home, uptime_s=house.uptime()
    )


def shutdown(house: House, _: NoParams) -> Stopping:
    house.stop()
    return Stopping()


async def status(call: Call, _: NoParams) -> Status:
    house, now = call.house, await call.house.gauges()
    return Status(
        version=house.version,
        pid=os.getpid(),
        uptime_s=house.uptime(),
        home=house.config().home,
        sessions=SessionCounts(open=now.sessions_open, live=now.sessions_live, running=now.sessions_running),
        agents=tuple(agent.name for agent in house.runtime.agents()),
        providers=house.providers(),
        schedule=house.schedules.names,
        rss_bytes=now.rss_bytes,
        fds=now.fds,
        tasks=now.tasks,
        threads=now.threads,
        children=now.children,
        connections=now.connections,
        warnings=house.warnings(),
    )


async def metrics(call: Call, params: MetricsParams) -> Metrics:
    families = call.house.metrics.families(await call.house.gauges())
    match params.format:
        case "json":
            return Metrics(metrics=by_name(families))
        case "prometheus":
            return Metrics(metrics={}, text=as_text(families))


async def reload(call: Call, _: NoParams) -> Reloaded:
    return await call.house.reload()


async def gc(call: Call, params: GcParams) -> Collected:
    return await call.house.space.gc(dry_run=params.dry_run)


async def discover(_: Call, __: NoParams) -> Discovery:
    """Made on demand and in a thread: the schemas of all Structs take some milliseconds."""
    return await trio.to_thread.run_sync(protocol_discover.discovery)
