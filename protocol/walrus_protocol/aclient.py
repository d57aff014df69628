"""An alias for one release: the former name of async_client. It will be removed (CHANGELOG)."""

from walrus_protocol.async_client import AsyncClient as Client

__all__ = ["Client"]
