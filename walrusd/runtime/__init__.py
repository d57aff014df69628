"""The agent runtime: sessions, turns, streams and the recording of events."""
