"""The former name of methods.search: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.search import Hit as Hit
from walrus_protocol.methods.search import Hits as Hits
from walrus_protocol.methods.search import SearchParams as SearchParams

__all__ = ["Hit", "Hits", "SearchParams"]
