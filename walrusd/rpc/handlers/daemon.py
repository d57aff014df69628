"""daemon.* and rpc.discover."""

import os

import trio

from walrus_protocol import discover as protocol_discover
from walrus_protocol.methods import (
    Discovery,
    Hello,
    HelloParams,
    NoParams,
    Pong,
    SessionCounts,
    Status,
    Stopping,
)
from walrus_protocol.problems import Problem
from walrus_protocol.wire import PROTOCOL
from walrusd.host.process import rss_bytes
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
        protocol=PROTOCOL, version=house.version, pid=os.getpid(), home=house.config.home, uptime_s=house.uptime()
    )


def shutdown(house: House, _: NoParams) -> Stopping:
    house.stop()
    return Stopping()


async def status(call: Call, _: NoParams) -> Status:
    house, runtime = call.house, call.house.runtime
    return Status(
        version=house.version,
        pid=os.getpid(),
        uptime_s=house.uptime(),
        home=house.config.home,
        sessions=SessionCounts(
            open=await runtime.log.open_sessions(), live=len(runtime.sessions_in_memory), running=runtime.running
        ),
        agents=tuple(agent.name for agent in runtime.agents()),
        providers=house.providers(),
        rss_bytes=rss_bytes(),
        connections=house.connections(),
        warnings=house.warnings(),
    )


async def discover(_: Call, __: NoParams) -> Discovery:
    """Made on demand and in a thread: the schemas of all Structs take some milliseconds."""
    return await trio.to_thread.run_sync(protocol_discover.discovery)
