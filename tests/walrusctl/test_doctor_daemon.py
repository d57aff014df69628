"""Tests of walrusctl doctor: the check of walrusd, its socket and its lock."""

import fcntl
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.fakes.daemon import FakeCall, FakeDaemon, Handler, fails, returns
from tests.fakes.home import ECHO, Home
from tests.fakes.walrusctl_runner import WalrusctlRunner
from tests.walrusctl.doctor_findings import doctor_findings, finding_of
from walrus_protocol.methods import ConfigCheckResult
from walrus_protocol.methods.daemon import Hello, Pong, SessionCounts, Status


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def status(home: Home, *warnings: str) -> Handler:
    return returns(
        Status(
            version=version("walrusd"),
            pid=4,
            uptime_s=5,
            home=str(home.path),
            sessions=SessionCounts(open=0, live=0, running=0),
            agents=("walrus",),
            providers=(),
            warnings=warnings,
        )
    )


def healthy_script(home: Home, **handlers: Handler) -> Mapping[str, Handler]:
    """Returns the script of a healthy walrusd; keyword arguments such as daemon_hello=… replace handlers."""
    script: dict[str, Handler] = {
        "daemon.ping": returns(Pong()),
        "daemon.hello": returns(Hello(protocol=1, version=version("walrusd"), pid=4, home=str(home.path), uptime_s=5)),
        "daemon.status": status(home),
        "config.check": returns(ConfigCheckResult(ok=True, path=str(home.toml))),
    }
    return script | {name.replace("_", "."): handler for name, handler in handlers.items()}


@contextmanager
def held_lock(home: Home, content: str) -> Iterator[None]:
    """Holds the lock of the home like a walrusd."""
    with open(home.write("walrusd.lock", content)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_walrusd_of_another_version_is_reported(home: Home) -> None:
    older = returns(Hello(protocol=1, version="0.0.1", pid=4, home=str(home.path), uptime_s=5))
    with FakeDaemon(home.socket, healthy_script(home, daemon_hello=older)):
        assert finding_of(home, "daemon") == (
            "warning",
            f"walrusd (pid 4) is version 0.0.1, this walrusctl is {version('walrusd')}",
            "restart walrusd, or use the walrusctl of its installation",
        )


def test_a_walrusd_of_another_home_is_reported(home: Home) -> None:
    other = returns(Hello(protocol=1, version=version("walrusd"), pid=4, home="/another", uptime_s=5))
    with FakeDaemon(home.socket, healthy_script(home, daemon_hello=other)):
        status, message, _ = finding_of(home, "daemon")
        assert (status, message) == (
            "error",
            f"the walrusd at {home.socket} (pid 4) runs on another home, /another",
        )


def test_a_warning_of_the_daemon_is_reported_once(home: Home) -> None:
    home.write("walrus.toml", f"{ECHO}\n[agents.walrus]\nmembers = ['other']\n")
    [(_, known, _)] = doctor_findings(home.path)["configuration"]
    worse = "The log cannot be written."
    with FakeDaemon(home.socket, healthy_script(home, daemon_status=status(home, known, worse))):
        found = doctor_findings(home.path)
    assert found["configuration"] == [("warning", known, "")]
    assert found["daemon"][1:] == [("warning", worse, "")]


def test_the_environment_of_the_daemon_is_checked_and_not_that_of_the_doctor(home: Home) -> None:
    home.write("walrus.toml", '[providers.x]\nkind = "openai"\napi_key = "${NO_SUCH_KEY}"\n')
    with FakeDaemon(home.socket, healthy_script(home)):
        status, message, _ = finding_of(home, "configuration")
        assert status == "warning"
        assert message.startswith("walrusd can load it, but this shell cannot: ")
        assert "NO_SUCH_KEY" in message
    home.write("walrus.toml", ECHO)
    failing = returns(
        ConfigCheckResult(ok=False, path="", message="walrus.toml:3: the environment variable X is not set")
    )
    with FakeDaemon(home.socket, healthy_script(home, config_check=failing)):
        status, message, _ = finding_of(home, "configuration")
        assert (status, message) == (
            "error",
            "walrusd could not restart: walrus.toml:3: the environment variable X is not set",
        )


def test_doctor_run_by_a_tool_gets_less_information_and_reports_no_error(home: Home) -> None:
    refused = fails("from_tool", "this process was started by walrusd's own tools")
    with FakeDaemon(home.socket, healthy_script(home, daemon_status=refused, config_check=refused)):
        assert finding_of(home, "daemon")[0] == "ok"


def test_a_walrusd_that_holds_the_home_and_does_not_answer_is_named(home: Home) -> None:
    with held_lock(home, f"42\n{home.socket}\n"):
        status, message, hint = finding_of(home, "daemon")
    assert (status, message) == ("error", f"walrusd (pid 42) runs on the home, but does not answer at {home.socket}")
    assert "kill 42" in hint


def test_a_walrusd_that_hangs_is_reported_within_seconds(home: Home) -> None:
    with (
        held_lock(home, f"42\n{home.socket}\n"),
        FakeDaemon(home.socket, healthy_script(home, daemon_hello=FakeCall.wait_for_cancel)),
    ):
        assert (
            finding_of(home, "daemon")[1] == f"walrusd (pid 42) runs on the home, but does not answer at {home.socket}"
        )


def test_a_walrusd_that_should_listen_elsewhere_and_does_not_answer_is_named(home: Home) -> None:
    with held_lock(home, "42\n/elsewhere.sock\n"):
        assert finding_of(home, "daemon") == (
            "error",
            f"walrusd (pid 42) listens on /elsewhere.sock, not on {home.socket}",
            "reach it with --socket /elsewhere.sock or WALRUS_SOCKET",
        )


def test_a_walrusd_at_an_earlier_configured_socket_is_ok_and_reported(home: Home) -> None:
    home.write("walrus.toml", ECHO.replace("[daemon]", f"[daemon]\nsocket = '{home.path}/new.sock'"))
    with held_lock(home, f"4\n{home.socket}\n"), FakeDaemon(home.socket, healthy_script(home)):
        [answers, moving] = doctor_findings(home.path)["daemon"]
        assert answers[:2] == ("ok", f"walrusd {version('walrusd')} answers at {home.socket}, pid 4, up 5 s")
        assert (moving[0], f"moves to {home.path}/new.sock when it is restarted" in moving[1]) == ("warning", True)
        [explicit] = doctor_findings(home.path, "--socket", f"{home.path}/new.sock")["daemon"]
        assert (explicit[0], "reach it with --socket" in explicit[2]) == ("error", True)


def test_a_left_over_socket_is_reported_and_not_removed(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.socket))
    status, message, _ = finding_of(home, "daemon")
    assert (status, "left over from a killed walrusd" in message) == ("warning", True)
    assert home.socket.exists()


def test_a_file_in_place_of_the_socket_is_reported(home: Home) -> None:
    home.socket.write_text("a file")
    assert finding_of(home, "daemon")[1] == f"{home.socket} exists but is not a socket"
    status, message, hint = finding_of(home, "daemon", "--socket", "/tmp/" + "x" * 120)
    assert (status, "too long" in message, "--socket" in hint) == ("error", True, True)


def test_another_program_at_the_socket_is_reported(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(home.socket))
        other.listen()
        other.settimeout(10)
        child = WalrusctlRunner(home.path).start_process("doctor", "--json")
        with other.accept()[0] as connection:
            connection.sendall(b"220 mail.example.org\r\n")
            stdout, _ = child.communicate(timeout=30)
    [daemon] = [check for check in json.loads(stdout)["checks"] if check["name"] == "daemon"]
    assert daemon["status"] == "error"
    assert daemon["message"] == f"the server at {home.socket} does not speak the protocol of walrusd"


def test_a_database_that_was_deleted_under_a_running_walrusd_is_reported(home: Home) -> None:
    with FakeDaemon(home.socket, healthy_script(home)):
        status, message, _ = finding_of(home, "database")
    assert (status, message) == ("error", f"{home.path}/walrus.db was deleted while walrusd uses it")
