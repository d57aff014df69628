"""The former name of methods.subscribe: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.subscribe import *

Subscribed = SubscribeResult
