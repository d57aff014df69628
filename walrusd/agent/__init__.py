"""The agent loop, without I/O: it decides what an agent does next, given the events of its session."""
