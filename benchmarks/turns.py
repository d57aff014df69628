"""Measures turns over the socket, one at a time and sixteen at once.

They are compared with the bare HTTP exchange of each.
"""

import json
import selectors
import time
from collections.abc import Sequence

import httpx2
import trio

from benchmarks import http_baseline
from benchmarks.children import DaemonProcess, make_home, walrusd
from benchmarks.machine import cpu_s
from benchmarks.setup import Setup
from benchmarks.table import Measurement, ms, p50, per_s
from benchmarks.wire import RawConnection, encode_request

TEXT = "What would you do today, if you were a walrus?"
CONCURRENT_SESSIONS = 16


def run(setup: Setup) -> list[Measurement]:
    with walrusd(make_home(setup.folder / "turns", setup.url)) as daemon:
        return trio.run(_measure, setup, daemon)


async def _measure(setup: Setup, daemon: DaemonProcess) -> list[Measurement]:
    async with http_baseline.open_client() as http:
        return [await _measure_single(setup, daemon, http), await _measure_concurrent(setup, daemon, http)]


async def _measure_single(setup: Setup, daemon: DaemonProcess, http: httpx2.AsyncClient) -> Measurement:
    """Measures first turns of new sessions, so that all requests have the same size."""
    connection = daemon.connect()
    warm, count = 50, setup.scale(600)
    turns, floors, body = [], [], b""
    for session in create_sessions(connection, warm + count):
        turns.append(run_turn(connection, session))
        body = body or await http_baseline.last_request_body(http, setup.url)
        floors.append(await http_baseline.time_exchange(http, setup.url, body))
    measured, floor = p50(turns[warm:]), p50(floors[warm:])
    connection.close()
    return Measurement(
        what="warm durable turn, p50",
        measured=ms(measured),
        floor=f"{ms(floor)} bare httpx2 exchange",
        ratio=measured / floor,
        bar="≤ 2.5 and ≤ 8 ms",
        met=measured <= 2.5 * floor and measured <= 0.008,
        values={"turn_s": measured, "floor_s": floor, "body_bytes": len(body)},
    )


async def _measure_concurrent(setup: Setup, daemon: DaemonProcess, http: httpx2.AsyncClient) -> Measurement:
    connection = daemon.connect()
    each = setup.scale(60)
    run_turn(connection, create_sessions(connection, 1)[0])
    body = await http_baseline.last_request_body(http, setup.url)
    await http_baseline.measure_rate(http, setup.url, body, connections=CONCURRENT_SESSIONS, exchanges=5)
    rates, floors, cpu, floor_cpu = [], [], [], []
    for _ in range(5):
        before = time.process_time()
        floors.append(
            await http_baseline.measure_rate(http, setup.url, body, connections=CONCURRENT_SESSIONS, exchanges=each)
        )
        floor_cpu.append((time.process_time() - before) / (CONCURRENT_SESSIONS * each))
        sessions = create_sessions(connection, CONCURRENT_SESSIONS * each)
        before = cpu_s(daemon.pid)
        rates.append(measure_turn_rate(daemon, sessions))
        cpu.append((cpu_s(daemon.pid) - before) / (CONCURRENT_SESSIONS * each))
    connection.close()
    measured, floor = p50(rates), p50(floors)
    return Measurement(
        what="16 sessions at once",
        measured=f"{measured:,.0f} turns/s ({ms(p50(cpu))} of daemon CPU each)",
        floor=f"{per_s(floor)} bare on 16 connections ({ms(p50(floor_cpu))} of CPU each)",
        ratio=measured / floor,
        bar="≥ 0.7",
        met=measured >= 0.7 * floor,
        values={"turns_per_s": measured, "floor_per_s": floor, "cpu_s": p50(cpu), "floor_cpu_s": p50(floor_cpu)},
    )


def run_turn(connection: RawConnection, session: int, text: str = TEXT) -> float:
    """Returns the seconds from a send to its answer. Raises RuntimeError if the turn fails."""
    began = time.perf_counter()
    result = connection.call("session.send", {"session": session, "content": text})
    took = time.perf_counter() - began
    if result["stop_reason"] != "text_response":
        raise RuntimeError(f"the turn failed: {result}")
    return took


def measure_turn_rate(daemon: DaemonProcess, sessions: Sequence[int], connections: int = CONCURRENT_SESSIONS) -> float:
    """Returns turns per second; each connection sends its next turn when the previous one is answered."""
    todo = [encode_request("session.send", {"session": session, "content": TEXT}) for session in sessions]
    open_connections = [daemon.connect() for _ in range(connections)]
    selector = selectors.DefaultSelector()
    began = time.perf_counter()
    for connection in open_connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.socket.sendall(todo.pop())
    waiting = len(open_connections)
    while waiting:
        for key, _ in selector.select():
            answer = key.data.receive()
            if b'"text_response"' not in answer:
                raise RuntimeError(f"the turn failed: {answer.decode()}")
            if todo:
                key.data.socket.sendall(todo.pop())
            else:
                waiting -= 1
    took = time.perf_counter() - began
    for connection in open_connections:
        connection.close()
    return len(sessions) / took


def create_sessions(connection: RawConnection, count: int, agent: str = "walrus") -> list[int]:
    """Creates sessions by pipelined requests of 500; returns their ids."""
    sessions: list[int] = []
    for start in range(0, count, 500):
        some = range(start, min(start + 500, count))
        connection.socket.sendall(
            b"".join(encode_request("session.create", {"agent": agent}, number) for number in some)
        )
        sessions += [json.loads(connection.receive())["result"]["session"] for _ in some]
    return sessions
