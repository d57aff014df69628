"""Fan-out of events to subscribers: one stream a session, and one of the whole daemon."""
