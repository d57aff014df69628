"""Measures how a thousand subscribers slow down turns, and that 200 concurrent turns lose no event."""

import json
import selectors
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.children import DaemonProcess, child, make_home, read_line, send_line, walrusd
from benchmarks.machine import cpu_s
from benchmarks.setup import Setup
from benchmarks.table import Measurement, ms, p50
from benchmarks.turns import create_sessions, run_turn
from benchmarks.wire import HEADER, encode_request

MANY = 1000
ROUNDS = 12
WARMUP_TURNS = 5
"""Number of turns at the beginning of a round that are not counted."""
BAR = 1.1
"""Maximum factor to the time of a turn without subscribers.

The goal is "no slower"; medians differ by this much.
"""
STREAMS = 200
TOKENS = 100
GAP_US = 20_000
"""Microseconds between two tokens of a stream."""
TYPES = ("tick", "config_reloaded", "session_closed", "rewound")

Request = dict[str, Any]


def run(setup: Setup) -> list[Measurement]:
    home = _raise_limits(
        make_home(setup.folder / "subscribers", setup.url, models=("quiet", f"stream-{TOKENS}-{GAP_US}"))
    )
    with walrusd(home) as daemon:
        connection = daemon.connect()
        idle = create_sessions(connection, MANY)
        connection.close()
        attached = [_request("session.attach", session=session, since=1) for session in idle]
        elsewhere = [_request("event.subscribe", sessions=[session]) for session in idle[: MANY // 2]]
        elsewhere += [_request("event.subscribe", agents=["quiet"])] * (MANY // 4)
        elsewhere += [_request("event.subscribe", types=[TYPES[n % 4]]) for n in range(MANY // 4)]
        everything = [_request("event.subscribe")] * MANY
        return [
            _measure_beside(setup, daemon, f"{MANY:,} attached to idle sessions", attached, bar=True),
            _measure_beside(setup, daemon, f"{MANY:,} subscribed to events that do not occur", elsewhere, bar=True),
            _measure_beside(
                setup,
                daemon,
                "one that subscribes to everything and never reads",
                everything[:1],
                bar=True,
                never_read=True,
            ),
            _measure_beside(setup, daemon, f"{MANY:,} that receive everything", everything, bar=False),
            _measure_streams(daemon),
        ]


def _raise_limits(home: Path) -> Path:
    toml = home / "walrus.toml"
    more = f"[daemon]\nmax_connections = {2 * MANY}\nmax_running_turns = {STREAMS}\n"
    toml.write_text(toml.read_text().replace("[daemon]\n", more))
    return home


def _request(method: str, **params: object) -> Request:
    return {"method": method, "params": params}


def _measure_beside(
    setup: Setup, daemon: DaemonProcess, label: str, requests: Sequence[Request], *, bar: bool, never_read: bool = False
) -> Measurement:
    """Compares turns with and without these subscribers, alternately."""
    each = setup.scale(60)
    connection = daemon.connect()
    alone: list[float] = []
    beside: list[float] = []
    cpu, cpu_beside = 0.0, 0.0
    sessions = iter(create_sessions(connection, 2 * ROUNDS * (each + WARMUP_TURNS)))
    for _ in range(ROUNDS):
        for times in (alone, beside):
            with _run_subscribers(daemon, requests if times is beside else [], never_read=never_read):
                for _ in range(WARMUP_TURNS):
                    run_turn(connection, next(sessions))
                before = cpu_s(daemon.pid)
                times += [run_turn(connection, next(sessions)) for _ in range(each)]
                took = cpu_s(daemon.pid) - before
                cpu, cpu_beside = (cpu + took, cpu_beside) if times is alone else (cpu, cpu_beside + took)
    connection.close()
    measured, floor, count = p50(beside), p50(alone), ROUNDS * each
    return Measurement(
        what=f"a turn beside {label}, p50",
        measured=f"{ms(measured)} ({ms(cpu_beside / count)} of daemon CPU)",
        floor=f"{ms(floor)} without subscribers ({ms(cpu / count)})",
        ratio=measured / floor,
        bar=f"≤ {BAR}" if bar else "",
        met=measured <= BAR * floor if bar else None,
        values={"turn_s": measured, "floor_s": floor, "cpu_s": cpu_beside / count, "floor_cpu_s": cpu / count},
    )


@contextmanager
def _run_subscribers(daemon: DaemonProcess, requests: Sequence[Request], *, never_read: bool) -> Iterator[None]:
    if not requests:
        yield
        return
    with child(["-m", "benchmarks.subscriber_load", daemon.socket, *(["deaf"] if never_read else [])]) as process:
        for word in (*map(json.dumps, requests), "ready?"):
            send_line(process, word)
        read_line(process)
        yield


class _EventCollector:
    """Collects the events of one connection, by session."""

    def __init__(self, daemon: DaemonProcess, request: bytes) -> None:
        self.socket = daemon.connect().socket
        self.texts: dict[int, str] = {}
        self.logged_events: dict[int, list[str]] = {}
        self.seqs: dict[int, list[int]] = {}
        self.lagged = 0
        self.result: dict[str, Any] | None = None
        self._buffer = bytearray()
        self.socket.sendall(request)

    def read(self) -> None:
        self._buffer += self.socket.recv(1 << 20)
        while len(self._buffer) >= 4 and len(self._buffer) >= 4 + (size := HEADER.unpack_from(self._buffer)[0]):
            message = json.loads(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            if "method" in message:
                self._add_event(message["params"]["event"])
            else:
                self.result = message["result"]

    def _add_event(self, event: dict[str, Any]) -> None:
        session = event["session"]
        if "live" not in event:
            self.logged_events.setdefault(session, []).append(event["type"])
            self.seqs.setdefault(session, []).append(event["seq"])
        elif event["type"] == "text_delta":
            text = self.texts.get(session, "")
            self.texts[session] = text[: event["at"]] + event["text"]
        elif event["type"] == "lagged":
            self.lagged += event["dropped"]


def _measure_streams(daemon: DaemonProcess) -> Measurement:
    """Streams each turn to a connection of its own, and all turns to one subscriber; counts losses."""
    connection = daemon.connect()
    sessions = create_sessions(connection, STREAMS, f"stream-{TOKENS}-{GAP_US}")
    connection.close()
    everything = _EventCollector(daemon, encode_request("event.subscribe", {"sessions": sessions}))
    streams = {
        session: _EventCollector(
            daemon, encode_request("session.stream", {"session": session, "content": "Say a lot."})
        )
        for session in sessions
    }
    selector = selectors.DefaultSelector()
    for collector in (everything, *streams.values()):
        selector.register(collector.socket, selectors.EVENT_READ, collector)
    ended = 0
    while ended < 2 * STREAMS:
        for key, _ in selector.select(30.0) or _raise_timeout():
            key.data.read()
        ended = sum(collector.result is not None for collector in streams.values())
        ended += sum(types[-1] == "done" for types in everything.logged_events.values())
    turn_of_three = ["user_message", "assistant_message", "done"]
    complete = sum(
        collector.result is not None
        and len(collector.result["text"]) == 5 * TOKENS
        and collector.result["text"] == collector.texts[session] == everything.texts.get(session)
        and collector.logged_events[session] == everything.logged_events[session] == turn_of_three
        and collector.seqs[session] == everything.seqs[session] == [2, 3, 4]
        for session, collector in streams.items()
    )
    lagged = everything.lagged + sum(collector.lagged for collector in streams.values())
    for collector in (everything, *streams.values()):
        collector.socket.close()
    return Measurement(
        what=f"{STREAMS} streaming turns at once, events lost",
        measured=f"{complete} turns complete for all subscribers, {lagged} deltas dropped",
        floor="",
        bar=f"{STREAMS} complete",
        met=complete == STREAMS,
        values={"complete": complete, "lagged": lagged},
    )


def _raise_timeout() -> list[Any]:
    raise RuntimeError("no event arrived for 30 s: events are lost")
