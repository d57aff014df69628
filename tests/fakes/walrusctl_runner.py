"""Runs walrusctl for tests, in this process or as a child.

It also provides a script of answers for the fake daemon.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner, Result
from msgspec import Struct

from tests.fakes.daemon import FakeCall, Handler, returns
from tests.fakes.home import ROOT, WALRUSCTL
from walrus_protocol.content import Assistant, ToolCall, ToolOutput, User
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    SessionCreated,
    StateChanged,
    TextDelta,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrus_protocol.methods import (
    AgentInfo,
    AgentList,
    AttachParams,
    AttachResult,
    CloseResult,
    CreateResult,
    History,
    HistoryParams,
    InterruptResult,
    ListParams,
    SessionInfo,
    SessionList,
    TurnResult,
    WaitResult,
)
from walrus_protocol.methods.daemon import MetricsParams, MetricsResult, Pong, ProviderStatus, SessionCounts, Status
from walrusctl.cli import cli

WALRUS = AgentInfo(name="walrus", description="Helps", model="echo/echo", max_iterations=16, tools=("read",))
CALL = ToolCall(id="c1", name="read", arguments={"path": "notes.txt"})
TURN_RESULT = TurnResult(session=1, turn=1, text="It says hi.", stop_reason="text_response", rounds=2, cost_usd=0.0)


def one_turn(call: FakeCall) -> Struct:
    """Emits a turn of two rounds with a tool call between them; the deltas cover only a part of the text."""
    call.emit(
        UserMessage(seq=2, session=1, turn=1, content="what does it say?"),
        TextDelta(session=1, turn=1, text="I will ", round=1, at=0),
        AssistantMessage(seq=3, session=1, turn=1, round=1, content="I will look.", calls=(CALL,), finish="tool_calls"),
        ToolCallsStart(seq=4, session=1, turn=1, calls=(CALL,)),
        ToolStarted(seq=5, session=1, turn=1, call_id="c1", name="read"),
        ToolResult(seq=6, session=1, turn=1, call_id="c1", name="read", output="hi", bytes=2, duration_ms=3),
        ToolCallsComplete(seq=7, session=1, turn=1, count=1),
        TextDelta(session=1, turn=1, text="It says", round=2, at=0),
        TextDelta(session=1, turn=1, text=" hi.", round=2, at=7),
        AssistantMessage(seq=8, session=1, turn=1, round=2, content="It says hi."),
        Done(seq=9, session=1, turn=1, stop_reason="text_response", text="It says hi.", rounds=2, duration_ms=1200),
    )
    return TURN_RESULT


def whole_log(call: FakeCall) -> Struct:
    assert isinstance(call.request.params, AttachParams)
    call.emit(SessionCreated(seq=1, session=1, agent="walrus", created_by="cli"))
    one_turn(call)
    call.emit(StateChanged(session=1, state="idle"))
    return AttachResult(last_seq=9, reason="end")


def session_info(number: int) -> SessionInfo:
    return SessionInfo(id=number, agent="walrus", title=f"number {number}", created_by="cli", messages=2, last_seq=9)


def list_of_three(call: FakeCall) -> Struct:
    """Returns a page of a list of three sessions: at most two, whatever the limit."""
    params = call.request.params
    assert isinstance(params, ListParams)
    last = int(params.cursor or 4)
    page = tuple(session_info(number) for number in range(last - 1, max(last - 1 - params.limit, last - 3, 0), -1))
    left = page[-1].id > 1
    return SessionList(sessions=page, cursor=str(page[-1].id) if left else None)


def metrics(call: FakeCall) -> Struct:
    params = call.request.params
    assert isinstance(params, MetricsParams)
    if params.format == "prometheus":
        return MetricsResult(metrics={}, text='walrusd_turns_total{stop_reason="error"} 0\n')
    named = {"walrusd_open_fds": 24, 'walrusd_turns_total{stop_reason="error"}': 0, "walrusd_uptime_seconds": 61.5}
    return MetricsResult(metrics=named)


def history_of_three(call: FakeCall) -> Struct:
    params = call.request.params
    assert isinstance(params, HistoryParams)
    messages = (
        User("what does it say?"),
        Assistant(content="I will look.", calls=(CALL,)),
        ToolOutput(call_id="c1", name="read", output="hi"),
    )
    first = int(params.cursor or 0)
    left = first + 2 < len(messages)
    return History(messages=messages[first : first + min(2, params.limit)], cursor=str(first + 2) if left else None)


SCRIPT: Mapping[str, Handler] = {
    "daemon.ping": returns(Pong()),
    "daemon.status": returns(
        Status(
            version="0.1.0",
            pid=42,
            uptime_s=61.5,
            home="/home/me/.openwalrus",
            sessions=SessionCounts(open=3, live=2, running=1),
            agents=("walrus",),
            providers=(ProviderStatus(name="echo", kind="echo", models=("echo",)),),
            rss_bytes=50_000_000,
            fds=24,
            tasks=31,
            threads=4,
            children=1,
            connections=1,
            warnings=("tools run without a sandbox",),
        )
    ),
    "daemon.metrics": metrics,
    "agent.list": returns(AgentList(agents=(WALRUS,))),
    "agent.get": returns(WALRUS),
    "agent.run": one_turn,
    "session.create": returns(CreateResult(session=1)),
    "session.list": list_of_three,
    "session.get": returns(session_info(1)),
    "session.stream": one_turn,
    "session.attach": whole_log,
    "session.history": history_of_three,
    "session.interrupt": returns(InterruptResult(interrupted=True, turn=1)),
    "session.close": returns(CloseResult(closed=True)),
    "session.wait": returns(WaitResult(state="idle")),
}


class WalrusctlRunner:
    """Runs walrusctl on a home; its requests go to the socket in that home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {"WALRUS_HOME": str(home), "WALRUS_SOCKET": "", "NO_COLOR": ""}

    def run(self, *words: str | int, stdin: str | bytes = "") -> Result:
        """Runs a command in this process; stdin and stdout are pipes."""
        runner = CliRunner(env=self.environ)
        result = runner.invoke(cli, [str(word) for word in words], input=stdin, prog_name="walrusctl")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json_lines(self, *words: str | int) -> list[object]:
        """Returns the decoded lines of `--json`; fails if the command fails or writes to stderr."""
        result = self.run(*words, "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        return [json.loads(line) for line in result.stdout.splitlines()]

    def start_process(
        self,
        *words: str | int,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        prelude: str = "",
    ) -> "subprocess.Popen[bytes]":
        """Starts walrusctl as a child process that runs the statements `prelude` first."""
        return subprocess.Popen(
            [sys.executable, "-c", f"{prelude}\n{WALRUSCTL}", *map(str, words)],
            env={**os.environ, **self.environ},
            cwd=ROOT,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
