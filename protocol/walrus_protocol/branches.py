"""The former name of methods.fork_rewind: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.fork_rewind import CheckpointInfo as CheckpointInfo
from walrus_protocol.methods.fork_rewind import CheckpointList as CheckpointList
from walrus_protocol.methods.fork_rewind import CheckpointListParams as CheckpointsParams
from walrus_protocol.methods.fork_rewind import CheckpointParams as CheckpointParams
from walrus_protocol.methods.fork_rewind import CheckpointResult as CheckpointMade
from walrus_protocol.methods.fork_rewind import ForkParams as ForkParams
from walrus_protocol.methods.fork_rewind import ForkResult as Forked
from walrus_protocol.methods.fork_rewind import RewindParams as RewindParams
from walrus_protocol.methods.fork_rewind import RewindResult as WentBack

__all__ = [
    "CheckpointInfo",
    "CheckpointList",
    "CheckpointMade",
    "CheckpointParams",
    "CheckpointsParams",
    "ForkParams",
    "Forked",
    "RewindParams",
    "WentBack",
]
