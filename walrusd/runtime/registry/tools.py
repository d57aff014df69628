"""The registry of tool schemas. The tools themselves are implemented behind the hook's `dispatch`."""

from collections.abc import Iterator

from walrus_protocol.content import ToolSchema


class ToolRegistry:
    """Tool schemas by name. An agent takes a snapshot when it is added; later changes do not affect it."""

    def __init__(self) -> None:
        self._schemas: dict[str, ToolSchema] = {}

    def register_tool(self, schema: ToolSchema) -> None:
        """Adds a schema. Raises ValueError if the name is taken."""
        if schema.name in self._schemas:
            raise ValueError(f"a tool named {schema.name} is registered already")
        self._schemas[schema.name] = schema

    def unregister_tool(self, name: str) -> bool:
        """Removes a schema; returns False if there is none of that name."""
        return self._schemas.pop(name, None) is not None

    def __iter__(self) -> Iterator[ToolSchema]:
        return iter(self._schemas.values())
