"""The daemon's socket: its listener, connections, requests and handlers."""
