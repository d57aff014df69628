"""The handlers of all methods, by name; a test checks them against the methods of the protocol."""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from walrusd.rpc.handlers import (
    agent,
    config,
    daemon,
    export_import,
    fork_rewind,
    schedule,
    search,
    send,
    session,
    subscriptions,
    tool,
)
from walrusd.rpc.request_context import DaemonServices, RequestContext

# Any: each handler takes the params type that METHODS lists for its method.
SYNC_HANDLERS: dict[str, Callable[[DaemonServices, Any], Struct]] = {
    "daemon.ping": daemon.ping,
    "daemon.hello": daemon.hello,
    "daemon.shutdown": daemon.shutdown,
    "agent.list": agent.list_agents,
    "agent.get": agent.get,
    "schedule.list": schedule.list_schedules,
    "config.get": config.get,
}
"""Handlers that never wait: they run inline, where the request is read."""
ASYNC_HANDLERS: dict[str, Callable[[RequestContext, Any], Awaitable[Struct]]] = {
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
    "session.attach": subscriptions.attach,
    "session.wait": subscriptions.wait,
    "session.history": session.history,
    "session.search": search.search,
    "session.interrupt": session.interrupt,
    "session.close": session.close,
    "session.fork": fork_rewind.fork,
    "session.rewind": fork_rewind.rewind,
    "session.checkpoint": fork_rewind.checkpoint,
    "session.checkpoints": fork_rewind.checkpoints,
    "session.export": export_import.export,
    "session.import": export_import.import_,
    "session.resume": send.resume,
    "event.subscribe": subscriptions.subscribe,
    "tool.output": tool.output,
    "schedule.run": schedule.run,
    "schedule.pause": schedule.pause,
    "schedule.resume": schedule.resume,
    "schedule.history": schedule.history,
    "config.check": config.check,
}
"""Handlers that may wait: each request runs in a task of its own."""
