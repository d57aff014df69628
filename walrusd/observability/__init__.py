"""Log lines, metrics and the redaction of secrets: what tells a person how the daemon is doing."""
