"""Measures the daemon's CPU for a streamed token, from the provider's socket to a subscriber's."""

import json
import time

import trio

from benchmarks import http_baseline
from benchmarks.children import DaemonProcess, make_home, walrusd
from benchmarks.machine import cpu_s
from benchmarks.setup import Setup
from benchmarks.table import Measurement, per_s
from benchmarks.turns import create_sessions
from benchmarks.wire import count_frames, encode_request

GAP_US = 250
"""Microseconds between paced tokens: each arrives in a separate read, and the daemon keeps up."""
BAR_US = 80.0


def run(setup: Setup) -> list[Measurement]:
    count = setup.scale(20_000)
    paced, flood = f"stream-{count}-{GAP_US}", f"stream-{count}-0"
    with walrusd(make_home(setup.folder / "tokens", setup.url, models=(paced, flood))) as daemon:
        return [
            _measure(setup, daemon, paced, count, f"paced, one every {GAP_US} µs", bar=True),
            _measure(setup, daemon, flood, count, "as fast as possible", bar=False),
        ]


def _measure(setup: Setup, daemon: DaemonProcess, agent: str, count: int, label: str, *, bar: bool) -> Measurement:
    connection = daemon.connect()
    session = create_sessions(connection, 1, agent)[0]
    cpu, began = cpu_s(daemon.pid), time.perf_counter()
    request = encode_request("session.stream", {"session": session, "content": "Say a lot."})
    frames, _, answer = count_frames(connection.socket, request)
    took, cpu = time.perf_counter() - began, cpu_s(daemon.pid) - cpu
    connection.close()
    if len(json.loads(answer)["result"]["text"]) != 5 * count:
        raise RuntimeError(f"not every token arrived: {answer[:200]!r}")
    deltas = frames - 5  # the response, the three events of a turn, and its state
    floor = trio.run(_baseline_cpu, setup, agent) / count * 1e6
    each = cpu / count * 1e6
    return Measurement(
        what=f"a streamed token, {label}",
        measured=f"{each:.0f} µs of daemon CPU ({per_s(count / took)}, {count / deltas:.1f} tokens a delta)",
        floor=f"{floor:.0f} µs of CPU in a bare httpx2 reader",
        ratio=each / floor,
        bar=f"≤ {BAR_US:.0f} µs" if bar else "",
        met=each <= BAR_US if bar else None,
        values={"daemon_us": each, "floor_us": floor, "tokens": count, "deltas": deltas, "seconds": took},
    )


async def _baseline_cpu(setup: Setup, model: str) -> float:
    """Returns the CPU seconds of a bare client that reads the same stream and discards it."""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "Say a lot."}]})
    async with http_baseline.open_client() as http:
        await http_baseline.exchange(http, setup.url, b'{"model":"say"}')
        before = time.process_time()
        await http_baseline.exchange(http, setup.url, body.encode())
        return time.process_time() - before
