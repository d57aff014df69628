"""The protocol of walrusd: frames, methods, events, errors and two clients. Imports nothing by itself."""

__version__ = "0.1.0"
