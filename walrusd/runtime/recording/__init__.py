"""Recording of events: check, persist, apply, publish."""
