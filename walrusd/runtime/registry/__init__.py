"""The agents and the tool schemas that a runtime knows."""
