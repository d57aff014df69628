"""Measures what the daemon adds to the first request of the default agent.

It reads the body that the provider received.
"""

import urllib.request

import msgspec

from benchmarks.children import make_home, walrusd
from benchmarks.setup import Setup
from benchmarks.table import Measurement
from benchmarks.turns import TEXT, create_sessions, run_turn
from walrus_protocol.json import decode

BYTES_A_TOKEN = 4
"""Bytes per token: an estimate for English and JSON.

Its error is smaller than the difference between tokenizers.
"""
BAR = 1200


class _RequestBody(msgspec.Struct):
    messages: list[dict[str, object]]
    tools: list[dict[str, object]] = []


def run(setup: Setup) -> list[Measurement]:
    with walrusd(make_home(setup.folder / "request", setup.url)) as daemon:
        connection = daemon.connect()
        run_turn(connection, create_sessions(connection, 1)[0])
        connection.close()
    with urllib.request.urlopen(f"{setup.url}/last") as answer:
        body = decode(answer.read(), _RequestBody)
    system = [message for message in body.messages if message["role"] == "system"]
    if [message["content"] for message in body.messages if message["role"] == "user"] != [TEXT]:
        raise RuntimeError(f"the first request has other messages than expected: {body.messages}")
    in_system, in_tools = (_estimate_tokens(part) for part in (system, body.tools))
    return [
        Measurement(
            what="added to the default agent's first request",
            measured=f"~{in_system + in_tools:.0f} tokens ({in_system:.0f} system, {in_tools:.0f} for "
            f"{len(body.tools)} tools; bytes / {BYTES_A_TOKEN})",
            bar=f"≤ {BAR:,} tokens",
            met=in_system + in_tools <= BAR,
            values={"system_tokens": in_system, "tool_tokens": in_tools, "tools": len(body.tools)},
        )
    ]


def _estimate_tokens(part: list[dict[str, object]]) -> float:
    return len(msgspec.json.encode(part)) / BYTES_A_TOKEN if part else 0.0
