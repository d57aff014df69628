"""The wire of walrusd: frames, methods, events, errors and two clients. Imports nothing: pick the module you need."""
