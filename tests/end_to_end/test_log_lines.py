"""Tests of the daemon's log: one line for each turn and request, and no message text.

The daemon runs without a log too.
"""

import fcntl
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.fakes.home import ECHO, MAX_WAIT_S, ROOT, Home, LogLine, WalrusdProcess
from walrus_protocol.client import Client, RequestFailed

PRIVATE_TEXT = "a very private matter"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[WalrusdProcess]:
    with Home(tmp_path / "home").walrusd() as daemon:
        yield daemon


def run_requests(daemon: WalrusdProcess) -> int:
    """Runs a turn in a new session, a request that fails, a ping and a history request."""
    with Client(str(daemon.socket)) as client:
        session: int = client.call("session.create", {"agent": "walrus", "title": PRIVATE_TEXT})["session"]
        client.call(
            "session.send", {"session": session, "content": PRIVATE_TEXT, "sender": PRIVATE_TEXT, "key": PRIVATE_TEXT}
        )
        with pytest.raises(RequestFailed):
            client.call("session.get", {"session": 999})
        client.call("daemon.ping")
        client.call("session.history", {"session": session})
    daemon.wait_for(lambda daemon: "session.history" in {line["method"] for line in daemon.lines_of("request")})
    return session


def without_times(lines: list[LogLine]) -> list[LogLine]:
    return [{name: value for name, value in line.items() if name not in {"ts", "ms", "duration_ms"}} for line in lines]


def test_every_line_is_json_if_stderr_is_not_a_terminal(daemon: WalrusdProcess) -> None:
    run_requests(daemon)
    assert daemon.terminate() == 0
    assert all(line.keys() >= {"event", "level", "ts"} for line in daemon.log_lines), daemon.stderr
    assert [line["event"] for line in daemon.log_lines][:1] == ["ready"]
    assert [line["event"] for line in daemon.log_lines][-1] == "stopped"


def test_a_turn_has_one_line(daemon: WalrusdProcess) -> None:
    session = run_requests(daemon)
    [line] = daemon.lines_of("turn")
    assert line["duration_ms"] >= 0
    assert without_times([line]) == [
        {
            "event": "turn",
            "level": "info",
            "session": session,
            "turn": 1,
            "agent": "walrus",
            "stop_reason": "text_response",
            "error": None,
            "rounds": 1,
            "tokens_in": 0,
            "tokens_out": 0,
            "cost_usd": 0.0,
        }
    ]


def test_a_request_has_one_line_and_a_ping_has_none(daemon: WalrusdProcess) -> None:
    session = run_requests(daemon)

    def request_line(method: str, session: int | None, error: str | None = None) -> LogLine:
        return {"event": "request", "level": "info", "method": method, "session": session, "error": error}

    assert without_times(daemon.lines_of("request")) == [
        request_line("session.create", None),
        request_line("session.send", session),
        request_line("session.get", 999, "session_not_found"),
        request_line("session.history", session),
    ]
    assert all(line["ms"] >= 0 for line in daemon.lines_of("request"))


def test_no_message_text_is_in_the_log(daemon: WalrusdProcess) -> None:
    run_requests(daemon)
    assert daemon.terminate() == 0
    assert PRIVATE_TEXT not in daemon.stderr


def test_a_level_above_info_leaves_out_requests_and_turns(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO.replace("[daemon]", '[daemon]\nlog_level = "warning"'))
    quiet = home.start()
    try:
        home.wait_until_served()
        check_answers(home)
        assert quiet.terminate() == 0
        assert quiet.log_lines == []
    finally:
        quiet.kill()


def check_answers(home: Home) -> None:
    with Client(str(home.socket)) as client:
        session = client.call("session.create", {"agent": "walrus"})["session"]
        assert client.call("session.send", {"session": session, "content": "hi"})["text"] == "hi"
        with pytest.raises(RequestFailed):
            client.call("session.get", {"session": 999})


@contextmanager
def run_logging_to(home: Home, stderr: int | IO[str], *, wrapper: Sequence[str] = (), **environ: str) -> Iterator[None]:
    """Runs a walrusd that logs to `stderr`; it must stop with status 0."""
    command = [*wrapper, sys.executable, "-m", "walrusd", "--home", str(home.path)]
    with subprocess.Popen(
        command, cwd=ROOT, env=home.environ(environ), stdin=subprocess.DEVNULL, stderr=stderr
    ) as process:
        try:
            yield
            process.terminate()
            assert process.wait(MAX_WAIT_S) == 0
        finally:
            process.kill()


def test_lines_on_a_terminal_are_formatted_and_the_daemon_survives_its_end(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    master, slave = pty.openpty()
    with (
        open(slave, "wb", buffering=0) as terminal,
        open(master, "rb", buffering=0) as screen,
        run_logging_to(home, terminal.fileno(), TERM="xterm"),
    ):
        terminal.close()
        text = ""
        while "ready" not in text:
            text += screen.read(4096).decode()
        assert not text.startswith("{")
        assert "\x1b[" in text
        screen.close()
        check_answers(home)


def test_the_daemon_continues_when_the_reader_of_its_log_has_closed_the_pipe(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    read, write = os.pipe()
    with open(write, "wb") as pipe, run_logging_to(home, pipe.fileno()):
        home.wait_until_served()
        os.close(read)
        for _ in range(3):
            check_answers(home)


def test_the_daemon_continues_when_the_reader_of_its_log_has_stopped_reading(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with open(read, "rb", buffering=0) as log, open(write, "wb") as pipe, run_logging_to(home, pipe.fileno()):
        home.wait_until_served()
        for _ in range(20):
            check_answers(home)
        early = log.read(4096)
        for _ in range(20):
            check_answers(home)
        assert b"ready" in early
        assert log.read(4096), "a reader that reads again must get new lines"


def test_the_daemon_continues_when_its_log_is_on_a_full_disk(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with open("/dev/full", "w") as full, run_logging_to(home, full):
        home.wait_until_served()
        check_answers(home)


def test_the_daemon_needs_no_stderr(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with run_logging_to(home, subprocess.DEVNULL, wrapper=["sh", "-c", 'exec "$@" 2>&-', "sh"]):
        home.wait_until_served()
        check_answers(home)
        assert home.path.joinpath("walrusd.lock").read_text().count("\n") == 2
