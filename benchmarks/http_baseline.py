"""The floor of a turn: the same exchange by httpx2 on trio and nothing else, from the benchmark's own process."""

import time

import httpx2
import trio


def open_client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64), timeout=60)


async def exchange(http: httpx2.AsyncClient, url: str, body: bytes) -> int:
    """Ask, and read the stream to its end; the bytes read."""
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
    """Exchanges a second, each connection doing its share one after the other."""

    async def one() -> None:
        for _ in range(exchanges):
            await exchange(http, url, body)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(one)
    return connections * exchanges / (time.perf_counter() - began)


async def last_request_body(http: httpx2.AsyncClient, url: str) -> bytes:
    """The body of the last request that the fake provider had."""
    return (await http.get(f"{url}/last")).content
