"""The agent loop, pure: what an agent does next, given the facts of its session."""
