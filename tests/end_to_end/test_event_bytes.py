"""Tests that an event has the same bytes for every reader, live or later, before and after a crash."""

import json
import socket
from pathlib import Path
from typing import Any

import trio

from tests.fakes.home import ECHO, MAX_WAIT_S, Home
from walrus_protocol import wire
from walrus_protocol.async_client import connect
from walrus_protocol.client import Client
from walrus_protocol.events import decode
from walrus_protocol.methods import AttachParams
from walrus_protocol.methods.subscribe import SubscribeParams

AGENTS = """
[agents.ada]
description = "One"
[agents.bob]
description = "Another"
"""
CONTENTS = ('plain "quoted" \\ and\ttabbed', "Grüß Gott, 漢字, 🦭, \u2028", "long" * 60_000)
Json = dict[str, Any]


class RawEventReader:
    """Sends one request on a raw socket and reads the bytes of the logged events in its stream."""

    def __init__(self, path: Path, method: str, **params: object) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(MAX_WAIT_S)
        self._sock.connect(str(path))
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._sock.sendall(wire.frame(json.dumps(request).encode()))
        self._frames = wire.FrameDecoder()
        self._payloads = iter(self._frames)

    def next_event(self) -> bytes | None:
        """Returns the next logged event as in its frame, or None at the response, which ends the stream."""
        while True:
            payload = self._next_frame()
            if "method" not in json.loads(payload):
                self._sock.close()
                return None
            event = payload[payload.index(b'"event":{') + len(b'"event":') : -len(b"}}")]
            if "live" not in json.loads(event):
                return event

    def _next_frame(self) -> bytes:
        while (payload := next(self._payloads, None)) is None:
            data = self._sock.recv(1 << 16)
            assert data, "the daemon hung up"
            self._frames.feed(data)
            self._payloads = iter(self._frames)
        return bytes(payload)

    def read_all(self) -> list[bytes]:
        return list(iter(self.next_event, None))

    def read_up_to(self, offset: int) -> list[bytes]:
        """Returns the events up to `offset` of a stream that follows the log."""
        events: list[bytes] = []
        while not events or json.loads(events[-1])["offset"] < offset:
            event = self.next_event()
            assert event is not None, "a stream that follows does not end"
            events.append(event)
        self._sock.close()
        return events


def run_turns(client: Client, agent: str) -> int:
    session: int = client.call("session.create", {"agent": agent, "title": "Grüße"})["session"]
    for number, content in enumerate(CONTENTS):
        client.call("session.send", {"session": session, "content": content, "key": f"k{number}"})
    return session


def last_offset(client: Client) -> int:
    last: int = client.call("event.subscribe", {"follow": False})["last_offset"]
    return last


def stream_events(client: Client, method: str, **params: object) -> list[Json]:
    with client.stream(method, params) as events:
        return list(events)


def test_every_reader_sees_the_same_event_bytes_live_and_later(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECHO + AGENTS)
    with home.walrusd() as daemon, Client(daemon.socket, MAX_WAIT_S) as client:
        everything = RawEventReader(home.socket, "event.subscribe", since=0)
        first = run_turns(client, "ada")
        attached, filtered = (
            RawEventReader(home.socket, "session.attach", session=first),
            RawEventReader(home.socket, "event.subscribe", since=0, agents=["ada"], types=["done", "user_message"]),
        )
        client.call("session.send", {"session": first, "content": "and more"})
        second = run_turns(client, "bob")
        home.write("agents/eve.md", "You are new.")
        client.call("daemon.reload")
        client.call("session.send", {"session": first, "content": "the end"})
        last = last_offset(client)
        live, live_attached, live_filtered = (
            everything.read_up_to(last),
            attached.read_up_to(last),
            filtered.read_up_to(last),
        )
        daemon.kill()
    with home.walrusd() as daemon, Client(daemon.socket, MAX_WAIT_S) as client:
        replayed = RawEventReader(home.socket, "event.subscribe", since=0, follow=False).read_all()
        assert replayed == live
        client.call("session.send", {"session": second, "content": "after a crash"})
    with home.walrusd() as daemon, Client(daemon.socket, MAX_WAIT_S) as client:
        all_events = RawEventReader(home.socket, "event.subscribe", since=0, follow=False).read_all()
        assert all_events[: len(live)] == live
        events = [json.loads(event) for event in all_events]
        assert {event["type"] for event in events} >= {"config_reloaded", "session_created", "done"}

        # An attachment and a filter give the same events live and later.
        first_events = [event for event, parsed in zip(all_events, events, strict=True) if parsed["session"] == first]
        assert (
            live_attached
            == RawEventReader(home.socket, "session.attach", session=first, follow=False).read_all()
            == first_events
        )
        chosen = [event for event in first_events if json.loads(event)["type"] in ("done", "user_message")]
        assert live_filtered == chosen
        filters = {"agents": ["ada"], "types": ["done", "user_message"]}
        assert RawEventReader(home.socket, "event.subscribe", since=0, follow=False, **filters).read_all() == chosen
        for since in (0, 1, events[7]["offset"], events[-2]["offset"]):
            later = [event for event, parsed in zip(all_events, events, strict=True) if parsed["offset"] > since]
            assert RawEventReader(home.socket, "event.subscribe", since=since, follow=False).read_all() == later

        # The clients of the project decode the same events.
        assert stream_events(client, "event.subscribe", since=0, follow=False) == events
        by_session = [event for event in events if event["session"] == second]
        assert stream_events(client, "session.attach", session=second, follow=False) == by_session
        for words, expected in ((["events"], events), (["session", "attach", str(second)], by_session)):
            lines = home.walrusctl(*words, "--no-follow", "--json").stdout.splitlines()
            assert lines[:-1] == [json.dumps(event) for event in expected]
        trio.run(check_typed_streams, home.socket, all_events, second)


async def check_typed_streams(path: Path, event_bodies: list[bytes], session: int) -> None:
    decoded = [decode(event) for event in event_bodies]
    async with connect(path) as client:
        async with client.subscribe(SubscribeParams(since=0, follow=False)) as stream:
            assert [event async for event in stream] == decoded
        async with client.attach(AttachParams(session=session, follow=False)) as attachment:
            assert [event async for event in attachment] == [event for event in decoded if event.session == session]
