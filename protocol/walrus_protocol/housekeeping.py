"""The former name of methods.daemon: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.daemon import *

Collected = GcResult
Metrics = MetricsResult
Reloaded = ReloadResult
Stopping = ShutdownResult
