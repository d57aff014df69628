"""walrusd: a local daemon that runs agents and stores their sessions."""

from walrus_protocol import __version__ as __version__
