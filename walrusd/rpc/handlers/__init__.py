"""Every method's handler: a file a noun. A test holds that these are the methods of the protocol, no more, no fewer."""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from walrusd.rpc.call import Call, House
from walrusd.rpc.handlers import agent, branch, config, daemon, portable, schedule, search, send, session, tool, watch

# Any: each handler takes the params that METHODS names for it; the table is where that is known.
INLINE: dict[str, Callable[[House, Any], Struct]] = {
    "daemon.ping": daemon.ping,
    "daemon.hello": daemon.hello,
    "daemon.shutdown": daemon.shutdown,
    "agent.list": agent.list_agents,
    "agent.get": agent.get,
    "schedule.list": schedule.list_schedules,
    "config.get": config.get,
}
"""Answered where they are read: they wait for nothing."""
WAITING: dict[str, Callable[[Call, Any], Awaitable[Struct]]] = {
    "rpc.discover": daemon.discover,
    "daemon.status": daemon.status,
    "daemon.metrics": daemon.metrics,
    "daemon.reload": daemon.reload,
    "daemon.gc": daemon.gc,
    "agent.run": send.run,
    "session.create": session.create,
    "session.list": session.list_sessions,
    "session.get": session.get,
    "session.send": send.send,
    "session.stream": send.stream,
    "session.attach": watch.attach,
    "session.wait": watch.wait,
    "session.history": session.history,
    "session.search": search.search,
    "session.interrupt": session.interrupt,
    "session.close": session.close,
    "session.fork": branch.fork,
    "session.rewind": branch.rewind,
    "session.checkpoint": branch.checkpoint,
    "session.checkpoints": branch.checkpoints,
    "session.export": portable.export,
    "session.import": portable.import_,
    "session.resume": send.resume,
    "event.subscribe": watch.subscribe,
    "tool.output": tool.output,
    "schedule.run": schedule.run,
    "schedule.pause": schedule.pause,
    "schedule.resume": schedule.resume,
    "schedule.history": schedule.history,
    "config.check": config.check,
}
"""Served in a task of their own."""
