"""The former name of async_client: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.async_client import AsyncChunkStream as Chunks
from walrus_protocol.async_client import AsyncClient as Client
from walrus_protocol.async_client import AsyncEventStream as Events
from walrus_protocol.async_client import connect

__all__ = ["Chunks", "Client", "Events", "connect"]
