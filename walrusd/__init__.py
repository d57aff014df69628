"""walrusd: a local daemon that runs agents and keeps what they said."""

__version__ = "0.1.0"
