"""The protocol of walrusd: frames, methods, events, errors and two clients. Imports nothing by itself."""
