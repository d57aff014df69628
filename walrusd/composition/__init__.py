"""Builds the components of the daemon, connects them, and applies a changed configuration to them."""
