"""The former name of methods.daemon: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.daemon import GcParams as GcParams
from walrus_protocol.methods.daemon import GcResult as Collected
from walrus_protocol.methods.daemon import Hello as Hello
from walrus_protocol.methods.daemon import HelloParams as HelloParams
from walrus_protocol.methods.daemon import MetricsParams as MetricsParams
from walrus_protocol.methods.daemon import MetricsResult as Metrics
from walrus_protocol.methods.daemon import Pong as Pong
from walrus_protocol.methods.daemon import ProviderStatus as ProviderStatus
from walrus_protocol.methods.daemon import ReloadResult as Reloaded
from walrus_protocol.methods.daemon import SessionCounts as SessionCounts
from walrus_protocol.methods.daemon import ShutdownResult as Stopping
from walrus_protocol.methods.daemon import Status as Status

__all__ = [
    "Collected",
    "GcParams",
    "Hello",
    "HelloParams",
    "Metrics",
    "MetricsParams",
    "Pong",
    "ProviderStatus",
    "Reloaded",
    "SessionCounts",
    "Status",
    "Stopping",
]
