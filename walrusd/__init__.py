"""walrusd: a local daemon that runs agents and stores their sessions."""

__version__ = "0.1.0"
