"""Tests of walrusctl with a real walrusd, both as processes.

They check output and exit statuses, as a shell script sees them.
"""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.home import MAX_WAIT_S, Home, WalrusdProcess
from walrus_protocol import wire
from walrus_protocol.client import Client

TOML = """
[daemon]
shutdown_grace_s = 0.1
[providers.stage]
kind = "scripted"
models = ["script"]
path = "script.toml"
[defaults]
model = "script"
max_iterations = 2
[permissions]
allow = ["read"]
"""
SCRIPT = """
[[reply]]
when = "hang"
text = "I begin"
hang = true
[[reply]]
when = "fail"
error = { kind = "provider_auth", message = "The key is wrong.", hint = "Set api_key." }
[[reply]]
when = "loop"
calls = [{ name = "read", arguments = { path = "a" } }]
[[reply]]
when = "loop"
calls = [{ name = "read", arguments = { path = "b" } }]
[[reply]]
when = "nothing"
text = ""
[[reply]]
when = "escape"
text = "red \\u001b[31mred\\u001b[0m \\u0007bell"
[[reply]]
when = ""
text = "Yes."
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("walrus") / "home", TOML)
    home.write("script.toml", SCRIPT)
    return home


@pytest.fixture(scope="module")
def daemon(home: Home) -> Iterator[WalrusdProcess]:
    with home.walrusd() as daemon:
        yield daemon


@pytest.fixture
def session(home: Home, daemon: WalrusdProcess) -> str:
    """A new session's id. `session create` prints only the id, so a script can use it directly."""
    return home.walrusctl("session", "create", "walrus").stdout.strip()


def session_state(home: Home, session: str) -> str:
    return str(json.loads(home.walrusctl("--json", "session", "show", session).stdout)["state"])


def test_the_first_session_of_a_home_is_1(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.walrusd():
        created = home.walrusctl("session", "create", "walrus")
        assert (created.returncode, created.stdout, created.stderr) == (0, "1\n", "")


def test_send_prints_only_the_answer(home: Home, session: str) -> None:
    sent = home.walrusctl("send", session, "hi")
    assert (sent.returncode, sent.stdout, sent.stderr) == (0, "Yes.\n", "")


@pytest.mark.parametrize("text", [("-",), ()])
def test_text_is_read_from_a_pipe(home: Home, session: str, text: tuple[str, ...]) -> None:
    assert home.walrusctl("send", session, *text, stdin="from a pipe\n").stdout == "Yes.\n"
    assert "user: from a pipe" in home.walrusctl("session", "history", session).stdout


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        ("fail", wire.EXIT_PROVIDER, "The key is wrong. (provider_auth)\n  hint: Set api_key."),
        ("loop", wire.EXIT_MAX_ITERATIONS, ""),
        ("nothing", wire.EXIT_NO_ACTION, ""),
    ],
)
def test_the_exit_status_says_how_a_turn_ended(home: Home, session: str, text: str, status: int, expected: str) -> None:
    sent = home.walrusctl("send", session, text)
    assert sent.returncode == status
    assert expected in sent.stderr
    assert home.walrusctl("send", session, "and now?").stdout == "Yes.\n"


def test_a_turn_that_times_out_exits_7_and_prints_the_text_so_far(home: Home, session: str) -> None:
    sent = home.walrusctl("send", session, "hang", "--turn-timeout", "0.2")
    assert (sent.returncode, sent.stdout) == (wire.EXIT_TIMEOUT, "I begin\n")


def test_a_client_timeout_exits_7_and_the_turn_continues(home: Home, session: str) -> None:
    assert home.walrusctl("--timeout", "0.2", "send", session, "hang").returncode == wire.EXIT_TIMEOUT
    assert session_state(home, session) == "processing"
    assert home.walrusctl("send", session, "me too", "--when-busy", "reject").returncode == wire.EXIT_BUSY
    assert home.walrusctl("session", "interrupt", session).returncode == 0
    assert home.walrusctl("session", "wait", session, "--state", "idle").stdout == "idle\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("session", "create", "nobody"), wire.EXIT_NOT_FOUND),
        (("send", "999", "hi"), wire.EXIT_NOT_FOUND),
        (("session", "history", "999"), wire.EXIT_NOT_FOUND),
        (("send", "one", "hi"), wire.EXIT_USAGE),
        (("session", "list", "--limit", "0"), wire.EXIT_USAGE),
        (("sned", "1", "hi"), wire.EXIT_USAGE),
        (("--socket", "/tmp/there-is-none.sock", "ping"), wire.EXIT_UNREACHABLE),
    ],
)
def test_a_failed_command_has_a_status_a_reason_and_nothing_on_stdout(
    home: Home, daemon: WalrusdProcess, arguments: tuple[str, ...], status: int
) -> None:
    tried = home.walrusctl(*arguments)
    assert (tried.returncode, tried.stdout) == (status, "")
    assert tried.stderr.strip()
    assert "Traceback" not in tried.stderr


def test_a_closed_session_can_be_read_but_not_written(home: Home, session: str) -> None:
    home.walrusctl("send", session, "hi")
    assert home.walrusctl("session", "close", session).returncode == 0
    assert home.walrusctl("send", session, "hi").returncode == wire.EXIT_NOT_FOUND
    assert "assistant: Yes." in home.walrusctl("session", "history", session).stdout
    listed = home.walrusctl("session", "list", "--all").stdout
    assert f"{session}  " in listed
    assert "closed" in listed


def test_a_repeated_key_sends_only_once(home: Home, session: str) -> None:
    answers = [home.walrusctl("--json", "send", session, "hi", "--key", "k").stdout for _ in range(3)]
    assert answers == [answers[0]] * 3
    assert json.loads(answers[0])["turn"] == 1


def test_json_output_is_one_object_or_one_object_per_line(home: Home, session: str) -> None:
    streamed = [json.loads(line) for line in home.walrusctl("--json", "stream", session, "hi").stdout.splitlines()]
    assert streamed[0]["type"] == "user_message"
    assert (streamed[-1]["text"], streamed[-1]["stop_reason"]) == ("Yes.", "text_response")
    attached = home.walrusctl("--json", "session", "attach", session, "--no-follow").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in attached[:-1]] == [1, 2, 3, 4]


def test_run_uses_a_new_session_and_closes_it(home: Home, daemon: WalrusdProcess) -> None:
    ran = home.walrusctl("run", "walrus", "hi")
    assert (ran.returncode, ran.stdout) == (0, "Yes.\n")
    with Client(str(daemon.socket), timeout=MAX_WAIT_S) as client:
        newest = client.call("session.list", {"include_closed": True, "limit": 1})["sessions"][0]["id"]
        assert client.call("session.wait", {"session": newest, "states": ["closed"]}) == {"state": "closed"}


@pytest.mark.parametrize(("detach", "after"), [((), "idle"), (("--detach",), "processing")])
def test_ctrl_c_interrupts_the_turn_unless_detached(
    home: Home, session: str, detach: tuple[str, ...], after: str
) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        home.command_line("stream", session, "hang", *detach),
        env=home.environ(),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    ) as streaming:
        os.close(follower)
        shown = b""
        while b"I begin" not in shown:
            shown += os.read(leader, 1024)
        streaming.send_signal(signal.SIGINT)
        assert streaming.wait(MAX_WAIT_S) == wire.EXIT_CTRL_C
    os.close(leader)
    assert session_state(home, session) == after
    home.walrusctl("session", "close", session, "--force")


def test_terminal_escapes_of_a_model_reach_a_pipe_but_not_a_terminal(home: Home, session: str) -> None:
    assert home.walrusctl("send", session, "escape").stdout == "red \x1b[31mred\x1b[0m \x07bell\n"
    leader, follower = pty.openpty()
    with subprocess.Popen(
        home.command_line("send", session, "escape"), env=home.environ(), stdin=follower, stdout=follower
    ) as sending:
        os.close(follower)
        assert sending.wait(MAX_WAIT_S) == 0
    shown = os.read(leader, 4096)
    os.close(leader)
    assert b"bell" in shown
    assert b"\x1b[31m" not in shown
    assert b"\x07" not in shown
