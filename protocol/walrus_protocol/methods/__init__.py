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
from walrus_protocol.methods.agent import AgentInfo, AgentList, AgentParams, AgentRunParams
from walrus_protocol.methods.config import ConfigCheckResult, ConfigResult
from walrus_protocol.methods.method import Method
from walrus_protocol.methods.rpc import Discovery, MethodInfo
from walrus_protocol.methods.session import (
    AttachParams,
    AttachResult,
    CloseParams,
    CloseResult,
    CreateParams,
    CreateResult,
    History,
    HistoryParams,
    InterruptResult,
    ListParams,
    ParentInfo,
    SendParams,
    SessionInfo,
    SessionList,
    SessionParams,
    TurnResult,
    WaitParams,
    WaitResult,
)
from walrus_protocol.methods.tool import OutputParams, OutputText

__all__ = [
    "METHODS",
    "AgentInfo",
    "AgentList",
    "AgentParams",
    "AgentRunParams",
    "AttachParams",
    "AttachResult",
    "CloseParams",
    "CloseResult",
    "ConfigCheckResult",
    "ConfigResult",
    "CreateParams",
    "CreateResult",
    "Discovery",
    "History",
    "HistoryParams",
    "InterruptResult",
    "ListParams",
    "Method",
    "MethodInfo",
    "OutputParams",
    "OutputText",
    "ParentInfo",
    "SendParams",
    "SessionInfo",
    "SessionList",
    "SessionParams",
    "TurnResult",
    "WaitParams",
    "WaitResult",
]

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
