"""Handlers of the daemon.* methods and of rpc.discover."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import structlog
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
    ShutdownResult,
    Status,
)
from walrus_protocol.param_types import NoParams
from walrus_protocol.problems import Problem
from walrus_protocol.wire import PROTOCOL
from walrusd.observability.metrics import Gauges, Metrics
from walrusd.observability.prometheus import format_prometheus, index_by_name
from walrusd.retention.collector import RetentionCollector
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes

log = structlog.get_logger("walrusd.rpc")


class StatusSource(Protocol):
    """Reads what the daemon reports about itself."""

    def identify(self) -> Hello: ...

    async def read_status(self) -> Status: ...

    async def read_gauges(self) -> Gauges: ...


def routes(
    status_source: StatusSource,
    metrics: Metrics,
    retention: RetentionCollector,
    *,
    reload_config: Callable[[], Awaitable[ReloadResult]],
    request_stop: Callable[[], None],
) -> Routes:
    """`reload_config` raises Problem; `request_stop` asks the daemon to stop, like a signal."""
    return {
        "rpc.discover": discover,
        "daemon.ping": ping,
        "daemon.hello": partial(hello, status_source),
        "daemon.status": partial(status, status_source),
        "daemon.metrics": partial(read_metrics, status_source, metrics),
        "daemon.reload": partial(reload, reload_config),
        "daemon.gc": partial(gc, retention),
        "daemon.shutdown": partial(shutdown, request_stop),
    }


def ping(_: RequestContext, __: NoParams) -> Pong:
    return Pong()


def hello(source: StatusSource, context: RequestContext, params: HelloParams) -> Hello:
    """Names the client of the connection: from now on its events are `by` that name."""
    if params.protocol != PROTOCOL:
        raise Problem(
            "protocol",
            f"protocol {params.protocol} is not supported; this walrusd supports {PROTOCOL}",
            "Use a client and a daemon of the same release.",
        )
    if params.client:
        context.principal.name = params.client
        log.debug("client_named", client=params.client, uid=context.principal.uid, pid=context.principal.pid)
    return source.identify()


def shutdown(request_stop: Callable[[], None], _: RequestContext, __: NoParams) -> ShutdownResult:
    request_stop()
    return ShutdownResult()


async def status(source: StatusSource, _: RequestContext, __: NoParams) -> Status:
    return await source.read_status()


async def read_metrics(
    source: StatusSource, metrics: Metrics, _: RequestContext, params: MetricsParams
) -> MetricsResult:
    families = metrics.read_families(await source.read_gauges())
    match params.format:
        case "json":
            return MetricsResult(metrics=index_by_name(families))
        case "prometheus":
            return MetricsResult(metrics={}, text=format_prometheus(families))


async def reload(reload_config: Callable[[], Awaitable[ReloadResult]], _: RequestContext, __: NoParams) -> ReloadResult:
    return await reload_config()


async def gc(retention: RetentionCollector, _: RequestContext, params: GcParams) -> GcResult:
    return await retention.collect(dry_run=params.dry_run)


async def discover(_: RequestContext, __: NoParams) -> Discovery:
    """Builds the description on demand and in a thread: the schemas of all Structs take some milliseconds."""
    return await trio.to_thread.run_sync(protocol_discover.build_discovery)
