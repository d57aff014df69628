"""Tests of tool output: shown while a tool runs, and printed completely afterwards."""

import os
import pty
from pathlib import Path

from msgspec import Struct

from tests.fakes.daemon import FakeCall, FakeDaemon
from tests.fakes.walrusctl_runner import TURN_RESULT, WalrusctlRunner
from walrus_protocol.content import ToolCall
from walrus_protocol.events import AssistantMessage, RunningOutput, ToolCallsStart, ToolResult, ToolStarted
from walrus_protocol.methods import AttachResult, OutputParams, OutputText

CALL = ToolCall(id="c1", name="bash", arguments={"command": "make"})
OUTPUT_PAGES = {0: OutputText(text="one\ntwo", next=7), 7: OutputText(text=" and \x1b[31mthree\x1b[0m")}


def emit_running_output(call: FakeCall) -> Struct:
    call.emit(
        AssistantMessage(seq=3, session=1, turn=1, round=1, calls=(CALL,), finish="tool_calls"),
        ToolCallsStart(seq=4, session=1, turn=1, calls=(CALL,)),
        ToolStarted(seq=5, session=1, turn=1, call_id="c1", name="bash"),
        RunningOutput(session=1, turn=1, call_id="c1", text="compiling \x1b[3"),
        RunningOutput(session=1, turn=1, call_id="c1", text="1mfish.c"),
        ToolResult(
            seq=6, session=1, turn=1, call_id="c1", name="bash", output="…", bytes=17, ref="0a1b", duration_ms=3
        ),
        AssistantMessage(seq=8, session=1, turn=1, round=2, content="Made."),
    )
    return TURN_RESULT if call.request.method == "session.stream" else AttachResult(last_seq=8, reason="end")


def pages(call: FakeCall) -> Struct:
    params = call.request.params
    assert isinstance(params, OutputParams)
    assert (params.session, params.ref) == (1, "0a1b")
    return OUTPUT_PAGES[params.offset]


SCRIPT = {"session.stream": emit_running_output, "session.attach": emit_running_output, "tool.output": pages}


def test_running_output_is_shown_on_stderr_as_it_arrives(tmp_path: Path, terminal: WalrusctlRunner) -> None:
    with FakeDaemon(tmp_path / "walrus.sock", SCRIPT):
        streamed, attached = terminal.run("stream", 1, "make it"), terminal.run("session", "attach", 1)
    assert streamed.stdout == "Made.\n"
    result = "← bash ok, 17 bytes, 3 ms\n  whole output: walrusctl tool output 1 0a1b\n"
    assert streamed.stderr == f'→ bash {{"command": "make"}}\ncompiling \x1b[31mfish.c\n{result}', (
        "a pipe gets the text unchanged"
    )
    assert attached.stdout == f'→ bash {{"command": "make"}}\n{result}assistant: Made.\n'
    assert attached.stderr == "compiling \x1b[31mfish.c\n"


def test_escapes_in_tool_output_do_not_reach_a_terminal(tmp_path: Path, terminal: WalrusctlRunner) -> None:
    ours, theirs = pty.openpty()
    with FakeDaemon(tmp_path / "walrus.sock", SCRIPT):
        child = terminal.start_process("tool", "output", 1, "0a1b", stdout=theirs)
        _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr) == (0, b"")
    assert os.read(ours, 1000) == b"one\r\ntwo and three\r\n"
    os.close(ours)
    os.close(theirs)


def test_a_complete_output_is_printed_page_by_page(tmp_path: Path, terminal: WalrusctlRunner) -> None:
    with FakeDaemon(tmp_path / "walrus.sock", SCRIPT):
        assert terminal.run("tool", "output", 1, "0a1b").stdout == "one\ntwo and \x1b[31mthree\x1b[0m\n"
        assert terminal.run("tool", "output", 1, "0a1b", "--offset", 7).stdout == " and \x1b[31mthree\x1b[0m\n"
        assert terminal.json_lines("tool", "output", 1, "0a1b") == [
            {"text": "one\ntwo and \x1b[31mthree\x1b[0m", "next": None}
        ]
