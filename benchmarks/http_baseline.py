"""Measures the floor of a turn: the same HTTP exchange without the daemon.

It is made by httpx2 on trio in the benchmark's own process.
"""

import time

import httpx2
import trio


def open_client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64), timeout=60)


async def exchange(http: httpx2.AsyncClient, url: str, body: bytes) -> int:
    """Sends the body and reads the stream to its end; returns the number of bytes."""
    size = 0
    headers = {"content-type": "application/json", "authorization": "Bearer not-a-key"}
    async with http.stream("POST", f"{url}/chat/completions", content=body, headers=headers) as response:
        async for piece in response.aiter_bytes():
            size += len(piece)
    return size


async def time_exchange(http: httpx2.AsyncClient, url: str, body: bytes) -> float:
    began = time.perf_counter()
    await exchange(http, url, body)
    return time.perf_counter() - began


async def measure_rate(http: httpx2.AsyncClient, url: str, body: bytes, *, connections: int, exchanges: int) -> float:
    """Returns exchanges per second; each connection does its exchanges one after the other."""

    async def run_connection() -> None:
        for _ in range(exchanges):
            await exchange(http, url, body)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(run_connection)
    return connections * exchanges / (time.perf_counter() - began)


async def last_request_body(http: httpx2.AsyncClient, url: str) -> bytes:
    """Returns the body of the last request that the fake provider received."""
    return (await http.get(f"{url}/last")).content
