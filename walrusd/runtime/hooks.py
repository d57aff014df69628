"""Composes the hooks of several features into one."""

from collections.abc import Callable, Sequence

import structlog

from walrus_protocol.content import Message
from walrus_protocol.events import AnyEvent, AnyLiveEvent, ToolResult
from walrusd.agent.agent import Agent
from walrusd.ports import ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry

logger = structlog.get_logger("walrusd.runtime")


class ComposedHook(Hook):
    """The hooks of all features, in a fixed order.

    A call goes to the hook that registered its tool, and that of an unknown tool to the first one that runs tools.
    Agents and user messages pass through all hooks; each takes what the one before it returned. A hook that fails to
    observe an event does not keep the others from it.
    """

    def __init__(self, *hooks: Hook, observers: Sequence[Callable[[str, AnyEvent], None]] = ()) -> None:
        """`observers` get the logged events, like `on_event` of a hook, with the name of the agent."""
        self.hooks = hooks
        self.observers = observers
        self._owners: dict[str, Hook] = {}
        # A hook is not called for what it leaves to the default.
        self._preprocessors = tuple(hook for hook in hooks if type(hook).preprocess is not Hook.preprocess)
        self._reminders = tuple(hook for hook in hooks if type(hook).on_before_run is not Hook.on_before_run)
        self._observers = (
            *(hook.on_event for hook in hooks if type(hook).on_event is not Hook.on_event),
            *observers,
        )
        self._first_dispatcher = next((hook for hook in hooks if type(hook).dispatch is not Hook.dispatch), Hook())
        """Refuses calls of tools that nobody registered."""
        self._live_observers = tuple(hook.on_live_event for hook in hooks if hook.observes_live_events)
        self.observes_live_events = bool(self._live_observers)

    @classmethod
    def of(cls, hook: Hook) -> "ComposedHook":
        """Returns the hook itself if it is composed already."""
        return hook if isinstance(hook, ComposedHook) else cls(hook)

    def on_register_tools(self, registry: ToolRegistry) -> None:
        """Registers the tools of all hooks. Raises ValueError if two of them have the same name."""
        owners: dict[str, Hook] = {}
        for hook in self.hooks:
            hook.on_register_tools(registry)
            for schema in registry:
                owners.setdefault(schema.name, hook)
        self._owners = owners

    def on_build_agent(self, config: Agent) -> Agent:
        for hook in self.hooks:
            config = hook.on_build_agent(config)
        return config

    async def preprocess(self, agent: Agent, text: str) -> str:
        for hook in self._preprocessors:
            text = await hook.preprocess(agent, text)
        return text

    async def on_before_run(self, agent: Agent, history: Sequence[Message]) -> Sequence[Message]:
        added: list[Message] = []
        for hook in self._reminders:
            added += await hook.on_before_run(agent, history)
        return added

    def on_event(self, agent: str, event: AnyEvent) -> None:
        for observe in self._observers:
            try:
                observe(agent, event)
            except Exception as failure:  # noqa: BLE001 - the event is recorded already; a hook that fails must not undo that
                _log_failure(observe, event, failure)

    def on_live_event(self, agent: str, event: AnyLiveEvent) -> None:
        for observe in self._live_observers:
            try:
                observe(agent, event)
            except Exception as failure:  # noqa: BLE001 - as for logged events
                _log_failure(observe, event, failure)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        return await self._owners.get(request.call.name, self._first_dispatcher).dispatch(request)


def _log_failure(observe: Callable[..., None], event: AnyEvent, failure: Exception) -> None:
    logger.error(
        "hook_failed",
        observer=getattr(observe, "__qualname__", repr(observe)),
        event_type=type(event).__name__,
        session=event.session,
        exc_info=failure,
    )
