"""The former name of methods.fork_rewind: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.fork_rewind import *

CheckpointsParams = CheckpointListParams
CheckpointMade = CheckpointResult
Forked = ForkResult
WentBack = RewindResult
