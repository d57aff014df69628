"""Builds the parts of the daemon, joins them, and applies a changed configuration to them."""
