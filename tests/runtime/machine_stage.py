"""The hook of the machine's runtimes: the puppet's tools, and every fact in the order in which it was told."""

from tests.runtime.machine_puppet import LOOK, TOUCH, Puppet
from walrus_protocol.events import AnyEvent, Durable, ToolResult
from walrusd.ports import ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.schemas import ToolRegistry


class Stage(Hook):
    def __init__(self, puppet: Puppet) -> None:
        self.told: list[Durable] = []
        self._puppet = puppet

    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(LOOK)
        registry.register_tool(TOUCH)

    def on_event(self, agent: str, event: AnyEvent) -> None:
        if isinstance(event, Durable):
            self.told.append(event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        return await self._puppet.dispatch(request)
