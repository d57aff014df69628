"""The former name of methods.schedule: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.schedule import *
