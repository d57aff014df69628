"""Handlers of the daemon.* methods and of rpc.discover."""

import os

import trio

from walrus_protocol import discover as protocol_discover
from walrus_protocol.methods import Discovery
from walrus_protocol.methods.daemon import (
    GcParams,
    GcResult,
    Hello,
    HelloParams,
    MetricsParams,
    MetricsResult,
    Pong,
    ReloadResult,
    SessionCounts,
    ShutdownResult,
    Status,
)
from walrus_protocol.param_types import NoParams
from walrus_protocol.problems import Problem
from walrus_protocol.wire import PROTOCOL
from walrusd.observability.prometheus import format_prometheus, index_by_name
from walrusd.rpc.request_context import DaemonServices, RequestContext


def ping(_: DaemonServices, __: NoParams) -> Pong:
    return Pong()


def hello(services: DaemonServices, params: HelloParams) -> Hello:
    if params.protocol != PROTOCOL:
        raise Problem(
            "protocol",
            f"protocol {params.protocol} is not supported; this walrusd supports {PROTOCOL}",
            "Use a client and a daemon of the same release.",
        )
    return Hello(
        protocol=PROTOCOL,
        version=services.version,
        pid=os.getpid(),
        home=services.config().home,
        uptime_s=services.uptime_s(),
    )


def shutdown(services: DaemonServices, _: NoParams) -> ShutdownResult:
    services.request_stop()
    return ShutdownResult()


async def status(context: RequestContext, _: NoParams) -> Status:
    services, gauges = context.services, await context.services.read_gauges()
    return Status(
        version=services.version,
        pid=os.getpid(),
        uptime_s=services.uptime_s(),
        home=services.config().home,
        sessions=SessionCounts(open=gauges.sessions_open, live=gauges.sessions_live, running=gauges.sessions_running),
        agents=tuple(agent.name for agent in services.runtime.agents()),
        providers=services.provider_statuses(),
        schedule=services.scheduler.names,
        rss_bytes=gauges.rss_bytes,
        fds=gauges.fds,
        tasks=gauges.tasks,
        threads=gauges.threads,
        children=gauges.children,
        connections=gauges.connections,
        warnings=services.warnings(),
    )


async def metrics(context: RequestContext, params: MetricsParams) -> MetricsResult:
    families = context.services.metrics.read_families(await context.services.read_gauges())
    match params.format:
        case "json":
            return MetricsResult(metrics=index_by_name(families))
        case "prometheus":
            return MetricsResult(metrics={}, text=format_prometheus(families))


async def reload(context: RequestContext, _: NoParams) -> ReloadResult:
    return await context.services.reload()


async def gc(context: RequestContext, params: GcParams) -> GcResult:
    return await context.services.retention.collect(dry_run=params.dry_run)


async def discover(_: RequestContext, __: NoParams) -> Discovery:
    """Builds the description on demand and in a thread: the schemas of all Structs take some milliseconds."""
    return await trio.to_thread.run_sync(protocol_discover.build_discovery)
