"""Tests of failing commands: message and hint on stderr, exit code, and nothing on stdout."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fakes.daemon import FakeCall, FakeDaemon, HangUp, fails, returns
from tests.fakes.walrusctl_runner import WalrusctlRunner
from walrus_protocol import wire
from walrus_protocol.client import Client
from walrus_protocol.content import StopReason, TurnError, TurnErrorKind
from walrus_protocol.events import TextDelta
from walrus_protocol.methods import TurnResult
from walrus_protocol.wire import Kind
from walrusctl.cli import cli
from walrusctl.context import DEFAULT_TIMEOUT_S, CliContext


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("bug", 1),
        ("storage_full", 1),
        ("key_reused", 1),
        ("invalid_params", 2),
        ("method_not_found", 2),
        ("protocol", 2),
        ("config", 2),
        ("session_not_found", 3),
        ("agent_not_found", 3),
        ("session_closed", 3),
        ("shutting_down", 4),
        ("from_tool", 5),
        ("budget", 6),
        ("timeout", 7),
        ("cancelled", 8),
        ("provider", 9),
        ("session_busy", 12),
        ("inbox_full", 12),
    ],
)
def test_an_error_exits_by_its_kind(daemon: FakeDaemon, terminal: WalrusctlRunner, kind: Kind, code: int) -> None:
    daemon.script["session.stream"] = fails(kind, "it was refused", "do otherwise")
    result = terminal.run("send", 1, "hi")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "walrusctl: it was refused\n  hint: do otherwise\n"


@pytest.mark.parametrize(
    ("stop", "error", "code", "expected"),
    [
        ("error", "provider_auth", 9, "walrusctl: no key (provider_auth)\n  hint: set one\n"),
        ("error", "no_provider", 9, "walrusctl: no key (no_provider)\n  hint: set one\n"),
        ("error", "internal", 1, "walrusctl: no key (internal)\n  hint: set one\n"),
        ("interrupted", "timeout", 7, "walrusctl: no key (timeout)\n  hint: set one\n"),
        ("interrupted", None, 8, "walrusctl: the turn was interrupted\n"),
        (
            "max_iterations",
            None,
            10,
            (
                "walrusctl: the agent used up its rounds without a final answer\n"
                "  hint: send another message to continue, or raise max_iterations of the agent\n"
            ),
        ),
        (
            "no_action",
            None,
            11,
            "walrusctl: the model returned neither text nor tool calls\n  hint: send again, or try another model\n",
        ),
        (
            "budget_exceeded",
            None,
            6,
            "walrusctl: the turn exceeded its budget\n  hint: raise the budget, or ask for less\n",
        ),
    ],
)
@pytest.mark.parametrize("command", ["send", "stream"])
def test_a_turn_without_an_answer_exits_by_its_stop_reason(
    daemon: FakeDaemon,
    terminal: WalrusctlRunner,
    command: str,
    stop: StopReason,
    error: TurnErrorKind | None,
    code: int,
    expected: str,
) -> None:
    failed = TurnError(error, "no key", "set one") if error else None
    turn_result = TurnResult(session=1, turn=1, text="", stop_reason=stop, error=failed)
    daemon.script["session.stream"] = returns(turn_result)
    result = terminal.run(command, 1, "hi")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", expected)
    as_json = terminal.run(command, 1, "hi", "--json")
    assert (as_json.exit_code, json.loads(as_json.stdout)["stop_reason"]) == (code, stop)


def test_without_a_daemon_the_hint_shows_how_to_start_one(terminal: WalrusctlRunner) -> None:
    result = terminal.run("ping")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == (
        f"walrusctl: walrusd is not running: there is no socket at {terminal.home}/walrus.sock\n"
        "  hint: start it with `walrusd`, the first time with `walrusd --init`\n"
    )


def test_a_daemon_that_crashes_during_a_turn_is_unreachable(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    def crash(_: FakeCall) -> TurnResult:
        raise HangUp

    daemon.script["session.stream"] = crash
    result = terminal.run("send", 1, "hi")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "hung up before it answered\n" in result.stderr
    assert (
        "hint: if the turn had begun, it continues when walrusd is back: see `walrusctl session attach 1`; "
        "a repeat without --key starts another turn; acknowledged messages are not lost: "
    ) in result.stderr
    with_key = terminal.run("stream", 1, "hi", "--key", "k").stderr
    assert "continues when walrusd is back; a repeat with the same --key prints its answer; acknowledged" in with_key
    daemon.script["daemon.ping"] = crash
    assert "hint: acknowledged messages are not lost: " in terminal.run("ping").stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("session", "fork", 1, "--at", 0), "Invalid value for '--at': 0 is not in the range 1<=x<="),
        (("session", "rewind", 1, 0), "Invalid value for 'SEQ|NAME': 0 is not in the range 1<=x<="),
        (("session", "checkpoint", 1, ""), "Invalid value for 'NAME': it has 0 characters; 1 to 256 are allowed."),
        (("session", "create", "a", "--key", "k" * 257), "Invalid value for '--key': it has 257 characters"),
        (("session", "search", "a" * 1025), "WORDS have 1,025 characters; at most 1,024 are allowed"),
    ],
)
def test_a_value_out_of_range_is_reported_for_its_option_and_not_sent(
    daemon: FakeDaemon, terminal: WalrusctlRunner, words: tuple[str | int, ...], expected: str
) -> None:
    result = terminal.run(*words)
    assert (result.exit_code, result.stdout, daemon.requests) == (2, "", [])
    assert expected in result.stderr


def test_if_the_events_are_cut_off_within_a_line_the_line_is_ended_first(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    def crash(call: FakeCall) -> TurnResult:
        call.emit(TextDelta(session=1, turn=1, text="half a", round=1, at=0))
        raise HangUp

    daemon.script["session.attach"] = crash
    result = terminal.run("session", "attach", 1)
    assert (result.exit_code, result.stdout) == (4, "assistant: half a\n")
    assert result.output.startswith("assistant: half a\nwalrusctl: ")


def test_with_json_an_error_is_also_printed_as_an_object(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.stream"] = fails("session_busy", "it is busy", "Send with when_busy=queue.")
    result = terminal.run("--json", "send", 1, "hi")
    assert result.exit_code == 12
    assert json.loads(result.stdout) == {
        "error": {
            "code": wire.BUSY,
            "kind": "session_busy",
            "message": "it is busy",
            "hint": "Send with when_busy=queue.",
        }
    }
    assert result.stderr == "walrusctl: it is busy\n  hint: Send with --when-busy queue.\n"


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("Give it a larger timeout_s, or a smaller task.", "Give it a larger --turn-timeout, or a smaller task."),
        (
            "rpc.discover and protocol/README.md say what session.fork takes",
            "run the command with --help to see its options",
        ),
        ("Raise idle_timeout_s or timeout_s of [providers.a].", "Raise idle_timeout_s or timeout_s of [providers.a]."),
    ],
)
def test_a_hint_names_the_option_instead_of_the_param(
    daemon: FakeDaemon, terminal: WalrusctlRunner, hint: str, expected: str
) -> None:
    turn_result = TurnResult(
        session=1, turn=1, text="", stop_reason="interrupted", error=TurnError("timeout", "It is late.", hint)
    )
    daemon.script["session.stream"] = returns(turn_result)
    assert terminal.run("send", 1, "hi").stderr == f"walrusctl: It is late. (timeout)\n  hint: {expected}\n"


def test_an_unanswered_query_is_reported_about_walrusd_and_not_about_a_turn(
    daemon: FakeDaemon, terminal: WalrusctlRunner
) -> None:
    daemon.script["daemon.status"] = FakeCall.wait_for_cancel
    result = terminal.run("status", "--timeout", "0.05")
    assert (result.exit_code, result.stdout) == (7, "")
    assert result.stderr == (
        "walrusctl: no answer within 0.05 s\n"
        "  hint: walrusd may be stopped or overloaded: see its log, or wait longer with --timeout\n"
    )


@pytest.mark.parametrize(
    ("words", "timeout_s"),
    [
        (("ping",), 5),
        (("agent", "list"), 5),
        (("session", "history", "1"), 5),
        (("session", "interrupt", "1"), 60),
        (("session", "close", "1"), 60),
        (("session", "wait", "1"), None),
        (("session", "attach", "1"), None),
        (("send", "1", "hi"), None),
    ],
)
def test_the_timeout_of_a_command_depends_on_what_it_waits_for(
    daemon: FakeDaemon, words: tuple[str, ...], timeout_s: float | None
) -> None:
    timeouts: list[float | None] = []

    class RecordingContext(CliContext):
        socket = str(daemon.path)

        def connect(self, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Client:
            timeouts.append(timeout_s)
            return super().connect(timeout_s)

    assert cli.main([*words], standalone_mode=False, obj=RecordingContext()) in (None, wire.EXIT_OK)
    assert timeouts == [timeout_s]


def test_a_timeout_ends_the_wait_with_its_own_code(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["session.stream"] = FakeCall.wait_for_cancel
    result = terminal.run("send", 1, "hi", "--timeout", "0.05")
    assert (result.exit_code, result.stdout) == (7, "")
    assert result.stderr == (
        "walrusctl: no answer within 0.05 s\n  hint: a running turn continues; `walrusctl session attach` shows it\n"
    )
    daemon.wait_until(lambda fake: len(fake.cancelled) == 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("pingg",), "No such command 'pingg'. Did you mean 'ping'?"),
        (("session", "creat", "a"), "No such command 'creat'. Did you mean 'create'?"),
        (("ping", "--jsn"), "No such option '--jsn'. Did you mean '--json'?"),
        (("send",), "Missing argument 'SESSION'"),
        (("send", "one", "hi"), "'one' is not a valid session id"),
        (("send", "0", "hi"), "0 is not in the range"),
        (("send", str(2**53), "hi"), "is not in the range"),
        (("send", "1", "hi", "--when-busy", "que"), "'que' is not one of 'queue', 'steer', 'interrupt', 'reject'"),
        (("send", "1", "hi", "--timeout", "0"), "0.0 is not in the range 0<x<=31536000"),
        (("ping", "--timeout", "nan"), "'nan' is not a valid number of seconds"),
        (("ping", "--timeout", "inf"), "inf is not in the range"),
        (("ping", "--timeout", "1e300"), "1e+300 is not in the range"),
        (("ping", "--timeout", "soon"), "'soon' is not a valid number of seconds"),
        (("send", "1", "hi", "--turn-timeout", "nan"), "'nan' is not a valid number of seconds"),
        (("send", "1", "hi", "--turn-timeout", "inf"), "inf is not in the range"),
        (("send", "1", ""), "TEXT is empty"),
        (("send", "1", "\udcff"), "TEXT contains bytes that are not UTF-8"),
        (("session", "list", "--limit", "0"), "0 is not in the range"),
        (("--socket", "x" * 120, "ping"), "the system allows at most 107"),
    ],
)
def test_bad_arguments_exit_2_and_send_no_request(
    daemon: FakeDaemon, terminal: WalrusctlRunner, words: tuple[str, ...], expected: str
) -> None:
    result = terminal.run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
    assert daemon.requests == []


@pytest.mark.parametrize(
    ("stdin", "expected"),
    [
        (b"", "TEXT is empty"),
        (b"\n", "TEXT is empty"),
        (b"\xff\xfe", "stdin contains bytes that are not UTF-8"),
        (b"x" * (wire.MAX_MESSAGE + 1), "stdin has more than 4,194,304 bytes"),
        (b'"' * (wire.MAX_MESSAGE // 2), "TEXT is 4,194,306 bytes as JSON; a message may have at most 4,194,304"),
    ],
)
def test_bad_stdin_exits_2_and_sends_no_request(
    daemon: FakeDaemon, terminal: WalrusctlRunner, stdin: bytes, expected: str
) -> None:
    result = terminal.run("send", 1, "-", stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr
    assert daemon.requests == []


def test_messages_of_the_daemon_are_shown_without_escapes(daemon: FakeDaemon, terminal: WalrusctlRunner) -> None:
    daemon.script["daemon.ping"] = fails("bug", "\x1b]0;mine\x07red \x1b[31mtext", "\x9b2Jhint")
    assert terminal.run("ping").stderr == "walrusctl: red text\n  hint: hint\n"


def test_a_home_that_is_not_a_folder_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert WalrusctlRunner(tmp_path / "file").run("ping").exit_code == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_user_without_a_home_folder_must_give_a_home_or_a_socket(tmp_path: Path) -> None:
    WalrusctlRunner(tmp_path).run("ping")  # loads all modules now: that user may not be able to read them
    runner = CliRunner(env={"HOME": None, "WALRUS_HOME": None, "WALRUS_SOCKET": None})
    os.seteuid(61234)
    try:
        without_home = runner.invoke(cli, ["ping"])
        with_socket = runner.invoke(cli, ["--socket", "/nowhere.sock", "ping"])
    finally:
        os.seteuid(0)
    assert without_home.exit_code == 2
    assert "uid 61234 has no home folder; set HOME or WALRUS_HOME" in without_home.stderr
    assert with_socket.exit_code == 4
    assert "there is no socket at /nowhere.sock" in with_socket.stderr


def test_a_deleted_current_folder_affects_only_relative_paths(
    daemon: FakeDaemon, terminal: WalrusctlRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = terminal.home / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert terminal.run("ping").exit_code == 0
    result = terminal.run("--socket", "walrus.sock", "ping")
    assert result.exit_code == 2
    assert "walrus.sock: the current folder no longer exists; use an absolute path" in result.stderr
