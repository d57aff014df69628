"""Records events: check, persist, apply, publish."""
