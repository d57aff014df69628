"""Fan-out of events to subscribers: one stream per session, and one of the whole daemon."""
