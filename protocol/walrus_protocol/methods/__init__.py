"""All methods of the protocol: METHODS joins the rows of the modules, which also define the params and results.

The server refuses unknown params and names the most similar one; clients skip unknown fields of results.
"""

from walrus_protocol.methods import (
    agent,
    config,
    daemon,
    export_import,
    fork_rewind,
    rpc,
    schedule,
    session,
    subscribe,
    tool,
)
from walrus_protocol.methods.agent import *
from walrus_protocol.methods.config import *
from walrus_protocol.methods.daemon import *
from walrus_protocol.methods.export_import import *
from walrus_protocol.methods.fork_rewind import *
from walrus_protocol.methods.method import Method
from walrus_protocol.methods.rpc import *
from walrus_protocol.methods.schedule import *
from walrus_protocol.methods.search import *
from walrus_protocol.methods.session import *
from walrus_protocol.methods.subscribe import *
from walrus_protocol.methods.tool import *

METHODS: dict[str, Method] = {
    **rpc.ROWS,
    **daemon.ROWS,
    **agent.ROWS,
    **session.ROWS,
    **fork_rewind.ROWS,
    **export_import.ROWS,
    **subscribe.ROWS,
    **tool.ROWS,
    **schedule.ROWS,
    **config.ROWS,
}

# Former names: aliases for one release, then they are removed (see CHANGELOG.md).
Created = CreateResult
Attached = AttachResult
Waited = WaitResult
Interrupted = InterruptResult
Closed = CloseResult
ConfigText = ConfigResult
ConfigVerdict = ConfigCheckResult
