"""The former name of async_client: an alias for one release, then it is removed (CHANGELOG)."""

from walrus_protocol.async_client import AsyncClient as Client

__all__ = ["Client"]
