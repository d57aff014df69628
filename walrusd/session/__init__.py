"""The state of a session, pure: folding events, allowed transitions, history, recovery."""
