"""Tests of the commands: what they write to stdout, as text and as JSON, and nothing else."""

from typing import get_args

import pytest
from msgspec.structs import replace

from tests.fakes.daemon import FakeCall, FakeDaemon, returns
from tests.fakes.walrusctl_runner import TURN_RESULT, WalrusctlRunner
from walrus_protocol.content import State, TurnError
from walrus_protocol.events import ToolResult
from walrus_protocol.methods import (
    AgentParams,
    AgentRunParams,
    AttachParams,
    CloseParams,
    CloseResult,
    CreateParams,
    HistoryParams,
    InterruptResult,
    ListParams,
    SendParams,
    SessionInfo,
    SessionList,
    SessionParams,
    TurnResult,
    WaitParams,
)
from walrusctl.cli import COMMANDS

TOOL_CALL_LINES = '→ read {"path": "notes.txt"}\n← read ok, 2 bytes, 3 ms\n'


def test_ping_reports_that_the_daemon_answers(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    assert terminal.run("ping").stdout.startswith("walrusd answers (")
    assert terminal.json_lines("ping") == [{}]


def test_status_shows_the_state_of_the_daemon_and_its_warnings_on_stderr(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    result = terminal.run("status")
    assert result.stdout == (
        "walrusd      0.1.0, pid 42, up 62 s\n"
        "home         /home/me/.openwalrus\n"
        "sessions     3 open, 2 in memory, 1 running\n"
        "agents       walrus\n"
        "provider     echo (echo): echo\n"
        "memory       50.0 MB\n"
        "holds        files 24, tasks 31, threads 4, children 1\n"
        "connections  1\n"
    )
    assert result.stderr == "walrusctl: tools run without a sandbox\n"
    (status,) = terminal.json_lines("status")
    assert isinstance(status, dict)
    assert status["warnings"] == ["tools run without a sandbox"]


def test_metrics_omit_zeros_except_for_json_and_prometheus(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    shown = "walrusd_open_fds        24\nwalrusd_uptime_seconds  61.5\n"
    text = 'walrusd_turns_total{stop_reason="error"} 0\n'
    assert terminal.run("metrics").stdout == shown
    assert terminal.run("metrics", "--prometheus").stdout == text
    both = terminal.run("metrics", "--prometheus", "--json")
    assert (both.exit_code, both.stdout) == (2, "")
    assert "--json and --prometheus exclude each other: choose one" in both.stderr
    [found] = terminal.json_lines("metrics")
    assert isinstance(found, dict)
    assert found["metrics"]['walrusd_turns_total{stop_reason="error"}'] == 0


def test_agents_are_listed_and_shown(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    listed = "NAME    MODEL      DESCRIPTION\nwalrus  echo/echo  Helps\n"
    assert terminal.run("agent", "list").stdout == listed
    assert "max_iterations  16\n" in terminal.run("agent", "show", "walrus").stdout
    assert daemon.params("agent.get") == [AgentParams(agent="walrus")]


def test_session_create_prints_only_the_id(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    assert terminal.run("session", "create", "walrus").output == "1\n"
    assert (
        terminal.run("session", "create", "walrus", "--title", "t", "--key", "k", "--created-by", "me").exit_code == 0
    )
    assert terminal.json_lines("session", "create", "walrus") == [{"session": 1}]
    assert daemon.params("session.create")[:2] == [
        CreateParams(agent="walrus", created_by="cli"),
        CreateParams(agent="walrus", created_by="me", title="t", key="k"),
    ]


def test_session_list_follows_cursors_up_to_the_limit(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    def listed(*options: str) -> list[str]:
        lines = terminal.run("session", "list", *options).stdout.splitlines()
        assert lines[0].split() == ["ID", "AGENT", "STATE", "MESSAGES", "UPDATED", "TITLE"]
        return [line.split()[0] for line in lines[1:]]

    assert listed() == ["3", "2", "1"]
    assert listed("--limit", "1") == ["3"]
    assert terminal.run("session", "list", "--limit", "2").stderr == "there are more: raise --limit\n"
    assert listed("--agent", "walrus", "--state", "closed", "--all") == ["3", "2", "1"]
    assert daemon.params("session.list")[-1] == ListParams(
        agent="walrus", state="closed", include_closed=True, limit=48, cursor="2"
    )
    (page,) = terminal.json_lines("session", "list", "--limit", "2")
    assert isinstance(page, dict)
    assert ([session["id"] for session in page["sessions"]], page["cursor"]) == ([3, 2], "2")


def test_session_show_prints_state_and_cost(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    shown = terminal.run("session", "show", 1).stdout
    assert "state       idle\n" in shown
    assert "tokens      0 in, 0 out, $0.0000\n" in shown


def test_a_title_stays_in_one_line(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    odd = SessionInfo(id=1, agent="walrus", title="a\nb\x07c\x1b[31md\r\te", created_by="cli")
    daemon.script["session.list"] = returns(SessionList(sessions=(odd,), cursor=None))
    daemon.script["session.get"] = returns(odd)
    assert terminal.run("session", "list").stdout.splitlines()[1].endswith("  a b cd e")
    assert "title       a b cd e\n" in terminal.run("session", "show", 1).stdout


def test_the_states_are_in_the_help(terminal: WalrusctlRunner) -> None:
    for command in ("list", "wait"):
        shown = terminal.run("session", command, "--help").stdout
        assert all(state in shown for state in get_args(State))


def test_session_history_prints_all_pages(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    assert terminal.run("session", "history", 1).stdout == (
        'user: what does it say?\nassistant: I will look.\n  → read {"path": "notes.txt"}\ntool read: hi\n'
    )
    assert terminal.run("session", "history", 1, "--limit", 1).stdout == "user: what does it say?\n"
    assert daemon.params("session.history")[-1] == HistoryParams(session=1, limit=1)


def test_session_attach_prints_the_events_and_each_text_once(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    assert terminal.run("session", "attach", 1).stdout == (
        "session 1 of agent walrus created\n"
        "user: what does it say?\n"
        "assistant: I will look.\n" + TOOL_CALL_LINES + "assistant: It says hi.\n"
        "done: text_response, 2 rounds, 0 tokens in, 0 out, $0.0000, 1.2 s\n"
    )
    terminal.run("session", "attach", 1, "--since", 4, "--no-follow", "--no-deltas")
    assert daemon.params("session.attach") == [
        AttachParams(session=1),
        AttachParams(session=1, since=4, follow=False, deltas=False),
    ]


def test_session_attach_as_json_is_one_line_per_event_and_the_result(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    lines = terminal.json_lines("session", "attach", 1)
    assert len(lines) == 14
    assert lines[-1] == {"last_seq": 9, "reason": "end"}


def test_session_interrupt_close_and_wait_print_their_results(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    assert terminal.run("session", "interrupt", 1).stdout == "interrupted turn 1\n"
    assert terminal.run("session", "close", 1, "--force").stdout == "closed\n"
    assert terminal.run("session", "wait", 1).stdout == "idle\n"
    assert terminal.run("session", "wait", 1, "--state", "error, closed").stdout == "idle\n"
    assert daemon.params("session.close") == [CloseParams(session=1, force=True)]
    assert daemon.params("session.wait") == [
        WaitParams(session=1, states=("idle", "error", "closed")),
        WaitParams(session=1, states=("error", "closed")),
    ]
    daemon.script["session.interrupt"] = returns(InterruptResult(interrupted=False))
    daemon.script["session.close"] = returns(CloseResult(closed=False))
    assert terminal.run("session", "interrupt", 1).stdout == "no turn was running\n"
    assert terminal.run("session", "close", 1).stdout == "was already closed\n"
    assert terminal.json_lines("session", "wait", 1) == [{"state": "idle"}]


def test_send_prints_only_the_answer(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    result = terminal.run("send", 1, "what does it say?")
    assert (result.stdout, result.stderr) == ("It says hi.\n", "")
    (answer,) = terminal.json_lines("send", 1, "x")
    assert isinstance(answer, dict)
    assert answer["text"] == "It says hi."


def test_send_passes_on_only_the_options_that_were_given(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    terminal.run("send", 1, "hi")
    terminal.run(
        "send", 1, "hi", "--key", "k", "--when-busy", "steer", "--sender", "me", "--turn-timeout", "2.5", "--detach"
    )
    assert daemon.params("session.stream") == [
        SendParams(session=1, content="hi"),
        SendParams(session=1, content="hi", key="k", when_busy="steer", sender="me", timeout_s=2.5),
    ]


def test_session_resume_prints_only_the_answer(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.resume"] = returns(TURN_RESULT)
    result = terminal.run("session", "resume", 1)
    assert (result.stdout, result.stderr, result.exit_code) == (f"{TURN_RESULT.text}\n", "", 0)
    assert daemon.params("session.resume") == [SessionParams(session=1)]
    abandoned = TurnError("crashed_repeatedly", "Twice.", "By hand.")
    daemon.script["session.resume"] = returns(replace(TURN_RESULT, stop_reason="error", error=abandoned, text=""))
    assert terminal.run("session", "resume", 1).exit_code == 1


def test_stream_prints_the_text_once_and_tool_calls_to_stderr(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    result = terminal.run("stream", 1, "what does it say?")
    assert (result.stdout, result.stderr) == ("I will look.\nIt says hi.\n", TOOL_CALL_LINES)


def test_a_failed_tool_is_not_shown_as_refused(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    def script(call: FakeCall) -> TurnResult:
        failed = ToolResult(seq=5, session=1, turn=1, call_id="c", name="read", output="no such file")
        call.emit(replace(failed, is_error=True, outcome="error", gate="execute"))
        call.emit(replace(failed, is_error=True, outcome="denied", gate="permissions"))
        return TURN_RESULT

    daemon.script["session.stream"] = script
    assert terminal.run("stream", 1, "x").stderr == (
        "← read failed: no such file\n← read denied by permissions: no such file\n"
    )


def test_stream_as_json_is_one_line_per_event_and_the_result(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    lines = terminal.json_lines("stream", 1, "x")
    assert len(lines) == 12
    assert isinstance(lines[-1], dict)
    assert lines[-1]["stop_reason"] == "text_response"


def test_run_prints_only_the_answer_into_a_pipe(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    result = terminal.run("run", "walrus", "what does it say?", "--title", "t")
    assert (result.stdout, result.stderr) == ("It says hi.\n", "")
    assert daemon.params("agent.run") == [
        AgentRunParams(agent="walrus", content="what does it say?", created_by="cli", title="t")
    ]


@pytest.mark.parametrize("argument", [("-",), ()])
def test_text_is_read_from_stdin(daemon: FakeDaemon, terminal: WalrusctlRunner, argument: tuple[str, ...]) -> None:
    assert terminal.run("send", 1, *argument, stdin="two\nlines é\n").exit_code == 0
    assert daemon.params("session.stream") == [SendParams(session=1, content="two\nlines é")]


def test_common_options_may_be_before_or_after_the_command(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    other = WalrusctlRunner(terminal.home / "other")
    assert other.run("--socket", str(daemon.path), "--json", "ping").stdout == "{}\n"
    assert other.run("session", "--json", "create", "a", "--home", str(terminal.home)).stdout == '{"session": 1}\n'


def test_the_socket_in_walrus_toml_is_used(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    home = terminal.home / "home"
    home.mkdir()
    (home / "walrus.toml").write_text('[daemon]\nsocket = "../walrus.sock"\n')
    assert WalrusctlRunner(home).run("ping").exit_code == 0


def test_every_command_has_a_help_text(terminal: WalrusctlRunner) -> None:
    for name in COMMANDS:
        result = terminal.run(name, "--help")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "Usage: walrusctl " + name in result.stdout


def test_walrusctl_without_a_command_shows_the_help(terminal: WalrusctlRunner) -> None:
    assert all(f"\n  {name} " in terminal.run().output for name in COMMANDS)
