"""The load of `make soak`: clients that do everything a real client does.

They send, stream, attach, interrupt, disconnect, reconnect, and close sessions.
"""

import random
import time
from typing import Literal

import trio

from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.client import RequestFailed
from walrus_protocol.methods import (
    AttachParams,
    CloseParams,
    CreateParams,
    HistoryParams,
    SendParams,
    SessionParams,
)

CLIENTS = 16
MEAN_PAUSE_S = 0.05
"""Mean seconds between two requests of a client.

All clients together run about two hundred turns a second, which is a month of a busy home in an hour.
"""
TURNS_PER_SESSION = 20
"""Number of turns after which a session is closed and a new one created.

Real use has many sessions rather than long ones.
"""
WORDS = ("walrus", "tusk", "ice", "floe", "clam", "whisker", "herd", "moult", "arctic", "dive", "breath", "krill")

Action = Literal["send", "stream", "attach", "history", "interrupt", "leave"]
ACTION_WEIGHTS: dict[Action, float] = {"send": 60, "stream": 25, "attach": 6, "history": 5, "interrupt": 3, "leave": 1}
"""Percentage of each action.

A client that leaves disconnects in the middle of a stream and then reconnects.
"""


class SoakLoad:
    """Sixteen clients on one daemon. The random seed is fixed, so that all runs do the same."""

    def __init__(self, socket: str, max_sessions: int) -> None:
        self._socket = socket
        self._max_sessions = max_sessions
        self._random = random.Random(10)
        self._turns: dict[int, int] = {}
        """Number of turns by open session."""
        self._creating = 0
        self._latencies: list[float] = []

    def take_latencies(self) -> list[float]:
        """Returns the seconds from send to answer of each turn that ended since the last call."""
        taken, self._latencies = self._latencies, []
        return taken

    async def run(self) -> None:
        """Runs the clients until it is cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(self._run_client)

    async def _run_client(self) -> None:
        while True:
            async with connect(self._socket) as client:
                action: Action = "send"
                while action != "leave":
                    await trio.sleep(self._random.expovariate(1 / MEAN_PAUSE_S))
                    [action] = self._random.choices(list(ACTION_WEIGHTS), list(ACTION_WEIGHTS.values()))
                    try:
                        await self._perform(action, client, await self._pick_session(client))
                    except RequestFailed as failed:
                        if (
                            failed.kind != "session_closed"
                        ):  # another client closed the session just before this request
                            raise

    async def _pick_session(self, client: AsyncClient) -> int:
        """Returns a random open session, or a new one if there are fewer than `max_sessions`."""
        if len(self._turns) + self._creating < self._max_sessions:
            self._creating += 1
            try:
                session = (await client.create(CreateParams(agent="walrus", created_by="soak"))).session
            finally:
                self._creating -= 1
            self._turns[session] = 0
            return session
        return self._random.choice(list(self._turns))

    async def _perform(self, action: Action, client: AsyncClient, session: int) -> None:
        match action:
            case "send":
                began = time.perf_counter()
                await client.send(self._message(session))
                await self._record_turn(client, session, time.perf_counter() - began)
            case "stream":
                began = time.perf_counter()
                async with client.stream(self._message(session)) as events:
                    async for _ in events:
                        pass
                await self._record_turn(client, session, time.perf_counter() - began)
            case "attach":
                async with client.attach(AttachParams(session=session, follow=False)) as events:
                    async for _ in events:
                        pass
            case "history":
                await client.history(HistoryParams(session=session))
            case "interrupt":
                await client.interrupt(SessionParams(session=session))
            case "leave":
                async with client.stream(self._message(session)) as events:
                    await anext(events)

    def _message(self, session: int) -> SendParams:
        words = self._random.choices(WORDS, k=self._random.randint(3, 60))
        return SendParams(session=session, content=" ".join(words))

    async def _record_turn(self, client: AsyncClient, session: int, took: float) -> None:
        self._latencies.append(took)
        if session in self._turns:
            self._turns[session] += 1
            if self._turns[session] >= TURNS_PER_SESSION:
                del self._turns[session]
                await client.close(CloseParams(session=session))
