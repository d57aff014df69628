"""A thousand who watch: what they cost the turns of others; and two hundred turns at once that lose no event."""

import json
import selectors
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.children import Daemon, child, line_of, make_home, tell, walrusd
from benchmarks.machine import cpu_s
from benchmarks.setup import Setup
from benchmarks.table import Row, ms, p50
from benchmarks.turns import create_sessions, turn
from benchmarks.wire import HEADER, framed

MANY = 1000
ROUNDS = 12
WARM = 5
"""Turns of a round that are not counted."""
BAR = 1.1
"""Times what a turn takes that nobody watches: "do not slow a turn", on a machine whose medians differ by this much."""
STREAMS = 200
TOKENS = 100
GAP_US = 20_000
TYPES = ("tick", "config_reloaded", "session_closed", "rewound")

Request = dict[str, Any]


def run(setup: Setup) -> list[Row]:
    home = _roomy(make_home(setup.folder / "subscribers", setup.url, models=("quiet", f"stream-{TOKENS}-{GAP_US}")))
    with walrusd(home) as daemon:
        line = daemon.line()
        idle = create_sessions(line, MANY)
        line.close()
        attached = [_asked("session.attach", session=session, since=1) for session in idle]
        elsewhere = [_asked("event.subscribe", sessions=[session]) for session in idle[: MANY // 2]]
        elsewhere += [_asked("event.subscribe", agents=["quiet"])] * (MANY // 4)
        elsewhere += [_asked("event.subscribe", types=[TYPES[n % 4]]) for n in range(MANY // 4)]
        everything = [_asked("event.subscribe")] * MANY
        return [
            _beside(setup, daemon, f"{MANY:,} attached to sessions at rest", attached, bar=True),
            _beside(setup, daemon, f"{MANY:,} subscribed to what does not happen", elsewhere, bar=True),
            _beside(
                setup, daemon, "one that subscribes to everything and never reads", everything[:1], bar=True, deaf=True
            ),
            _beside(setup, daemon, f"{MANY:,} that are sent everything", everything, bar=False),
            _all_at_once(daemon),
        ]


def _roomy(home: Path) -> Path:
    toml = home / "walrus.toml"
    more = f"[daemon]\nmax_connections = {2 * MANY}\nmax_running_turns = {STREAMS}\n"
    toml.write_text(toml.read_text().replace("[daemon]\n", more))
    return home


def _asked(method: str, **params: object) -> Request:
    return {"method": method, "params": params}


def _beside(
    setup: Setup, daemon: Daemon, who: str, requests: Sequence[Request], *, bar: bool, deaf: bool = False
) -> Row:
    """Turns with them and without them, by turns."""
    each = setup.fewer(60)
    line = daemon.line()
    alone: list[float] = []
    watched: list[float] = []
    cpu, cpu_watched = 0.0, 0.0
    sessions = iter(create_sessions(line, 2 * ROUNDS * (each + WARM)))
    for _ in range(ROUNDS):
        for times in (alone, watched):
            with _watchers(daemon, requests if times is watched else [], deaf=deaf):
                for _ in range(WARM):
                    turn(line, next(sessions))
                before = cpu_s(daemon.pid)
                times += [turn(line, next(sessions)) for _ in range(each)]
                took = cpu_s(daemon.pid) - before
                cpu, cpu_watched = (cpu + took, cpu_watched) if times is alone else (cpu, cpu_watched + took)
    line.close()
    measured, floor, count = p50(watched), p50(alone), ROUNDS * each
    return Row(
        what=f"a turn beside {who}, p50",
        measured=f"{ms(measured)} ({ms(cpu_watched / count)} of daemon CPU)",
        floor=f"{ms(floor)} with nobody there ({ms(cpu / count)})",
        ratio=measured / floor,
        bar=f"≤ {BAR}" if bar else "",
        met=measured <= BAR * floor if bar else None,
        values={"turn_s": measured, "floor_s": floor, "cpu_s": cpu_watched / count, "floor_cpu_s": cpu / count},
    )


@contextmanager
def _watchers(daemon: Daemon, requests: Sequence[Request], *, deaf: bool) -> Iterator[None]:
    if not requests:
        yield
        return
    with child(["-m", "benchmarks.watchers", daemon.socket, *(["deaf"] if deaf else [])]) as process:
        for word in (*map(json.dumps, requests), "ready?"):
            tell(process, word)
        line_of(process)
        yield


class _Heard:
    """One connection's frames, and what its events make together."""

    def __init__(self, daemon: Daemon, request: bytes) -> None:
        self.socket = daemon.line().socket
        self.texts: dict[int, str] = {}
        self.facts: dict[int, list[str]] = {}
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
                self._take(message["params"]["event"])
            else:
                self.result = message["result"]

    def _take(self, event: dict[str, Any]) -> None:
        session = event["session"]
        if "live" not in event:
            self.facts.setdefault(session, []).append(event["type"])
            self.seqs.setdefault(session, []).append(event["seq"])
        elif event["type"] == "text_delta":
            said = self.texts.get(session, "")
            self.texts[session] = said[: event["at"]] + event["text"]
        elif event["type"] == "lagged":
            self.lagged += event["dropped"]


def _all_at_once(daemon: Daemon) -> Row:
    """Each turn streamed to a connection of its own, and all of them to one that subscribes."""
    line = daemon.line()
    sessions = create_sessions(line, STREAMS, f"stream-{TOKENS}-{GAP_US}")
    line.close()
    everything = _Heard(daemon, framed("event.subscribe", {"sessions": sessions}))
    streams = {
        session: _Heard(daemon, framed("session.stream", {"session": session, "content": "Say a lot."}))
        for session in sessions
    }
    selector = selectors.DefaultSelector()
    for heard in (everything, *streams.values()):
        selector.register(heard.socket, selectors.EVENT_READ, heard)
    ended = 0
    while ended < 2 * STREAMS:
        for key, _ in selector.select(30.0) or _given_up():
            key.data.read()
        ended = sum(heard.result is not None for heard in streams.values())
        ended += sum(facts[-1] == "done" for facts in everything.facts.values())
    turn_of_three = ["user_message", "assistant_message", "done"]
    whole = sum(
        heard.result is not None
        and len(heard.result["text"]) == 5 * TOKENS
        and heard.result["text"] == heard.texts[session] == everything.texts.get(session)
        and heard.facts[session] == everything.facts[session] == turn_of_three
        and heard.seqs[session] == everything.seqs[session] == [2, 3, 4]
        for session, heard in streams.items()
    )
    lagged = everything.lagged + sum(heard.lagged for heard in streams.values())
    for heard in (everything, *streams.values()):
        heard.socket.close()
    return Row(
        what=f"{STREAMS} streaming turns at once, events lost",
        measured=f"{whole} turns whole in all their listeners, {lagged} deltas dropped",
        floor="",
        bar=f"{STREAMS} whole",
        met=whole == STREAMS,
        values={"whole": whole, "lagged": lagged},
    )


def _given_up() -> list[Any]:
    raise RuntimeError("nothing has come for 30 s: events are lost")
