"""The registries of a runtime: agents and tool schemas."""
