"""The state of a session, without I/O: folding events, allowed transitions, history, recovery."""
