"""Log lines, metrics and the redaction of secrets: everything that shows a person how the daemon is doing."""
