"""Tests SIGKILL of walrusd under load: every acknowledged message is in the log exactly once."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from tests.fakes.home import MAX_WAIT_S, Home, WalrusdProcess
from walrus_protocol.client import Client, RequestFailed, TimedOut, Unreachable

TOML = """
[daemon]
shutdown_grace_s = 0.1
[providers.scripted]
kind = "scripted"
models = ["script"]
path = "script.toml"
[defaults]
model = "script"
[permissions]
allow = ["read"]
"""
SCRIPT = """
[[reply]]
when = "hang"
text = "half a sentence"
hang = true
[[reply]]
when = "cut off"
text = "a whole sentence"
[[reply]]
when = "look"
text = "I look."
calls = [{ name = "read", arguments = { path = "note" } }]
[[reply]]
when = "look"
text = "It is so."
[[reply]]
when = ""
text = "Yes."
"""
CLIENTS = 4
MESSAGES = 40


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", TOML)
    home.write("script.toml", SCRIPT)
    home.write("workspace/note", "so")
    return home


class Sender:
    """Sends messages with idempotency keys to one session until the daemon is killed; records the results."""

    def __init__(self, socket: Path, session: int) -> None:
        self.session = session
        self.acknowledged: dict[str, dict[str, object]] = {}
        self.unacknowledged: list[str] = []
        self._socket = str(socket)
        self.thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        key = ""
        try:
            with Client(self._socket, timeout=MAX_WAIT_S) as client:
                for n in range(MESSAGES):
                    key = f"{self.session}-{n}"
                    self.acknowledged[key] = client.call("session.send", message(self.session, key))
        except (Unreachable, RequestFailed, TimedOut, OSError):
            self.unacknowledged.append(key)


def message(session: int, key: str) -> dict[str, object]:
    content = f"look {key}" if key.endswith(("3", "7")) else f"hello {key}"
    return {"session": session, "content": content, "key": key}


def history(client: Client, session: int) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = []
    cursor = None
    while True:
        page = client.call("session.history", {"session": session, "limit": 500, "cursor": cursor})
        messages += page["messages"]
        cursor = page["cursor"]
        if cursor is None:
            return messages


def events(client: Client, session: int) -> list[dict[str, object]]:
    return list(client.stream("session.attach", {"session": session, "follow": False}))


@pytest.mark.parametrize("seed", range(4))
def test_acknowledged_results_are_returned_again_and_nothing_is_recorded_twice(home: Home, seed: int) -> None:
    with home.walrusd() as daemon:
        with Client(str(daemon.socket), timeout=MAX_WAIT_S) as client:
            sessions = [client.call("session.create", {"agent": "walrus"})["session"] for _ in range(CLIENTS)]
        senders = [Sender(daemon.socket, session) for session in sessions]
        for sender in senders:
            sender.thread.start()
        enough = random.Random(seed).randrange(5, CLIENTS * MESSAGES // 2)
        daemon.wait_for(lambda daemon: len(daemon.lines_of("turn")) >= enough)
        daemon.kill()
        for sender in senders:
            sender.thread.join(MAX_WAIT_S)
    assert sum(len(sender.acknowledged) for sender in senders) >= enough - CLIENTS

    with home.walrusd() as daemon, Client(str(daemon.socket), timeout=MAX_WAIT_S) as client:
        for sender in senders:
            check(client, sender)
        assert client.call("session.create", {"agent": "walrus"})["session"] > max(sessions)


def check(client: Client, sender: Sender) -> None:
    # The interrupted turn is resumed first.
    client.call("session.wait", {"session": sender.session, "states": ["idle"]})
    before = client.call("session.get", {"session": sender.session})["last_seq"]
    for key, result in sender.acknowledged.items():
        assert client.call("session.send", message(sender.session, key)) == result
    assert client.call("session.get", {"session": sender.session})["last_seq"] == before, "a retry records nothing"
    for key in sender.unacknowledged:
        client.call("session.send", message(sender.session, key))
    log = events(client, sender.session)
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    sent = [event["key"] for event in log if event["type"] == "user_message" and event["kind"] == "message"]
    assert sent == [*sender.acknowledged, *sender.unacknowledged]
    turns = [event["turn"] for event in log if event["type"] == "done"]
    assert turns == list(range(1, len(sent) + 1))
    check_calls_paired(history(client, sender.session))


def check_calls_paired(messages: list[dict[str, object]]) -> None:
    """Checks that the results of calls directly follow their message: a provider accepts nothing else."""
    open_calls: list[str] = []
    for entry in messages:
        if entry["role"] == "tool":
            assert entry["call_id"] == open_calls.pop(0)
            continue
        assert not open_calls
        calls = entry.get("calls") or []
        assert isinstance(calls, list)
        open_calls = [call["id"] for call in calls]
    assert not open_calls


@pytest.fixture
def daemon_with_session(home: Home) -> Iterator[tuple[WalrusdProcess, int]]:
    """Yields a running daemon and the id of its one session."""
    with home.walrusd() as daemon:
        with Client(str(daemon.socket), timeout=MAX_WAIT_S) as client:
            session = client.call("session.create", {"agent": "walrus"})["session"]
        yield daemon, session


@pytest.mark.parametrize(
    ("on_restart", "first"),
    [("continue", ("text_response", "a whole sentence")), ("close", ("interrupted", "half a sentence"))],
)
def test_a_killed_turn_resumes_or_closes_with_its_text_and_queued_messages_are_answered(
    home: Home, daemon_with_session: tuple[WalrusdProcess, int], on_restart: str, first: tuple[str, str]
) -> None:
    daemon, session = daemon_with_session
    with (
        Client(str(daemon.socket), timeout=MAX_WAIT_S) as streaming,
        Client(str(daemon.socket), timeout=MAX_WAIT_S) as one,
        Client(str(daemon.socket), timeout=MAX_WAIT_S) as two,
    ):
        stream = iter(streaming.stream("session.stream", {"session": session, "content": "hang", "key": "first"}))
        while next(stream)["type"] != "text_delta":
            pass
        for client, text in ((one, "second"), (two, "third")):
            queued = next(iter(client.stream("session.stream", {"session": session, "content": text, "key": text})))
            assert queued["type"] == "message_queued"
        wait_for_draft(home)
        daemon.kill()
    home.write("walrus.toml", f'{TOML}[sessions]\non_restart = "{on_restart}"\n')
    with home.walrusd() as restarted, Client(str(restarted.socket), timeout=MAX_WAIT_S) as client:
        results = [
            client.call("session.send", {"session": session, "content": text, "key": key})
            for text, key in (("hang", "first"), ("second", "second"), ("third", "third"))
        ]
        assert [(result["turn"], result["stop_reason"], result["text"]) for result in results] == [
            (1, *first),
            (2, "text_response", "Yes."),
            (3, "text_response", "Yes."),
        ]


def wait_for_draft(home: Home) -> None:
    """Waits until a second connection to the database sees a draft."""
    db = apsw.Connection(str(home.path / "walrus.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        wait = threading.Event()
        for _ in range(200):
            if db.execute("SELECT count(*) FROM draft").get:
                return
            wait.wait(0.05)
    finally:
        db.close()
    raise AssertionError("no draft was written")
