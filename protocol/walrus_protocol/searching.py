"""The former name of methods.search: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.search import *
