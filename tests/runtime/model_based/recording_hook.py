"""The hook of the tested runtimes: runs the scripted tools and records every logged event."""

from tests.runtime.model_based.scripted_model import LOOK, TOUCH, ScriptedModel
from walrus_protocol.events import AnyEvent, AnySessionEvent, ToolResult
from walrusd.ports import ToolRequest
from walrusd.runtime.hook import Hook
from walrusd.runtime.registry.tools import ToolRegistry


class RecordingHook(Hook):
    """Records the logged events of one run."""

    def __init__(self, model: ScriptedModel) -> None:
        self.events: list[AnySessionEvent] = []
        self._model = model

    def on_register_tools(self, registry: ToolRegistry) -> None:
        registry.register_tool(LOOK)
        registry.register_tool(TOUCH)

    def on_event(self, agent: str, event: AnyEvent) -> None:
        if isinstance(event, AnySessionEvent):
            self.events.append(event)

    async def dispatch(self, request: ToolRequest) -> ToolResult:
        return await self._model.dispatch(request)
