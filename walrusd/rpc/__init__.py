"""The socket: connections, requests and their handlers."""
