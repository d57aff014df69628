"""The tool registry: schemas only. How a tool works is known behind the hook's `dispatch`."""

from collections.abc import Iterator

from walrus_protocol.content import ToolSchema


class ToolRegistry:
    """Schemas by name. An agent takes a snapshot when it is added; later changes do not reach it."""

    def __init__(self) -> None:
        self._schemas: dict[str, ToolSchema] = {}

    def register_tool(self, schema: ToolSchema) -> None:
        """Add a schema. Raises ValueError where the name is taken."""
        if schema.name in self._schemas:
            raise ValueError(f"a tool named {schema.name} is registered already")
        self._schemas[schema.name] = schema

    def unregister_tool(self, name: str) -> bool:
        """Take a schema away; False where there is none."""
        return self._schemas.pop(name, None) is not None

    def __iter__(self) -> Iterator[ToolSchema]:
        return iter(self._schemas.values())
