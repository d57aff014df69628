"""What tools say: shown while they run, and printed whole afterwards."""

import os
import pty
from pathlib import Path

from msgspec import Struct

from tests.fakes.daemon import Call, FakeDaemon
from tests.fakes.terminal import ANSWERED, Terminal
from walrus_protocol.content import ToolCall
from walrus_protocol.events import AssistantMessage, RunningOutput, ToolCallsStart, ToolResult, ToolStarted
from walrus_protocol.methods import Attached, OutputParams, OutputText

CALL = ToolCall(id="c1", name="bash", arguments={"command": "make"})
PAGES = {0: OutputText(text="one\ntwo", next=7), 7: OutputText(text=" and \x1b[31mthree\x1b[0m")}


def said_while_it_runs(call: Call) -> Struct:
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
    return ANSWERED if call.request.method == "session.stream" else Attached(last_seq=8, reason="end")


def pages(call: Call) -> Struct:
    params = call.request.params
    assert isinstance(params, OutputParams)
    assert (params.session, params.ref) == (1, "0a1b")
    return PAGES[params.offset]


SCRIPT = {"session.stream": said_while_it_runs, "session.attach": said_while_it_runs, "tool.output": pages}


def test_running_output_is_shown_on_stderr_as_it_comes(tmp_path: Path, terminal: Terminal) -> None:
    with FakeDaemon(tmp_path / "walrus.sock", SCRIPT):
        streamed, attached = terminal.types("stream", 1, "make it"), terminal.types("session", "attach", 1)
    assert streamed.stdout == "Made.\n"
    ended = "← bash ok, 17 bytes, 3 ms\n  more of it: walrusctl tool output 1 0a1b\n"
    assert streamed.stderr == f'→ bash {{"command": "make"}}\ncompiling \x1b[31mfish.c\n{ended}', (
        "a pipe gets it as it is"
    )
    assert attached.stdout == f'→ bash {{"command": "make"}}\n{ended}assistant: Made.\n'
    assert attached.stderr == "compiling \x1b[31mfish.c\n"


def test_a_terminal_is_not_told_what_a_tool_would_have_it_do(tmp_path: Path, terminal: Terminal) -> None:
    ours, theirs = pty.openpty()
    with FakeDaemon(tmp_path / "walrus.sock", SCRIPT):
        child = terminal.child("tool", "output", 1, "0a1b", stdout=theirs)
        _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr) == (0, b"")
    assert os.read(ours, 1000) == b"one\r\ntwo and three\r\n"
    os.close(ours)
    os.close(theirs)


def test_a_whole_output_is_printed_page_by_page(tmp_path: Path, terminal: Terminal) -> None:
    with FakeDaemon(tmp_path / "walrus.sock", SCRIPT):
        assert terminal.types("tool", "output", 1, "0a1b").stdout == "one\ntwo and \x1b[31mthree\x1b[0m\n"
        assert terminal.types("tool", "output", 1, "0a1b", "--offset", 7).stdout == " and \x1b[31mthree\x1b[0m\n"
        assert terminal.lines("tool", "output", 1, "0a1b") == [
            {"text": "one\ntwo and \x1b[31mthree\x1b[0m", "next": None}
        ]
