"""A durable event is the same to the byte for whoever reads it, whenever, however, and after whatever."""

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
    """A request by hand, and the bytes of the durable events that come for it."""

    def __init__(self, path: Path, method: str, **params: object) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(MAX_WAIT_S)
        self._sock.connect(str(path))
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._sock.sendall(wire.frame(json.dumps(request).encode()))
        self._frames = wire.FrameDecoder()
        self._payloads = iter(self._frames)

    def next_event(self) -> bytes | None:
        """An event as it is in its frame; None for the response, after which nothing comes."""
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
        """Those that have come of one that follows."""
        events: list[bytes] = []
        while not events or json.loads(events[-1])["offset"] < offset:
            event = self.next_event()
            assert event is not None, "it follows"
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
        one, filtered = (
            RawEventReader(home.socket, "session.attach", session=first),
            RawEventReader(home.socket, "event.subscribe", since=0, agents=["ada"], types=["done", "user_message"]),
        )
        client.call("session.send", {"session": first, "content": "and more"})
        second = run_turns(client, "bob")
        home.write("agents/eve.md", "You are new.")
        client.call("daemon.reload")
        client.call("session.send", {"session": first, "content": "the end"})
        last = last_offset(client)
        lived, lived_in_one, lived_filtered = (
            everything.read_up_to(last),
            one.read_up_to(last),
            filtered.read_up_to(last),
        )
        daemon.kill()
    with home.walrusd() as daemon, Client(daemon.socket, MAX_WAIT_S) as client:
        replayed = RawEventReader(home.socket, "event.subscribe", since=0, follow=False).read_all()
        assert replayed == lived
        client.call("session.send", {"session": second, "content": "after a crash"})
    with home.walrusd() as daemon, Client(daemon.socket, MAX_WAIT_S) as client:
        all_of_it = RawEventReader(home.socket, "event.subscribe", since=0, follow=False).read_all()
        assert all_of_it[: len(lived)] == lived
        events = [json.loads(event) for event in all_of_it]
        assert {event["type"] for event in events} >= {"config_reloaded", "session_created", "done"}

        # What followed an attachment or a filter while it happened, and what they give now.
        of_first = [event for event, parsed in zip(all_of_it, events, strict=True) if parsed["session"] == first]
        assert (
            lived_in_one
            == RawEventReader(home.socket, "session.attach", session=first, follow=False).read_all()
            == of_first
        )
        chosen = [event for event in of_first if json.loads(event)["type"] in ("done", "user_message")]
        assert lived_filtered == chosen
        ask = {"agents": ["ada"], "types": ["done", "user_message"]}
        assert RawEventReader(home.socket, "event.subscribe", since=0, follow=False, **ask).read_all() == chosen
        for since in (0, 1, events[7]["offset"], events[-2]["offset"]):
            behind = [event for event, parsed in zip(all_of_it, events, strict=True) if parsed["offset"] > since]
            assert RawEventReader(home.socket, "event.subscribe", since=since, follow=False).read_all() == behind

        # The clients of ours.
        assert stream_events(client, "event.subscribe", since=0, follow=False) == events
        by_session = [event for event in events if event["session"] == second]
        assert stream_events(client, "session.attach", session=second, follow=False) == by_session
        for words, told in ((["events"], events), (["session", "attach", str(second)], by_session)):
            lines = home.walrusctl(*words, "--no-follow", "--json").stdout.splitlines()
            assert lines[:-1] == [json.dumps(event) for event in told]
        trio.run(check_typed_streams, home.socket, all_of_it, second)


async def check_typed_streams(path: Path, event_bodies: list[bytes], session: int) -> None:
    told = [decode(event) for event in event_bodies]
    async with connect(path) as client:
        async with client.subscribe(SubscribeParams(since=0, follow=False)) as stream:
            assert [event async for event in stream] == told
        async with client.attach(AttachParams(session=session, follow=False)) as attachment:
            assert [event async for event in attachment] == [event for event in told if event.session == session]
