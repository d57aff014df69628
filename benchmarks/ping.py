"""Measures daemon.ping round trips per second.

They are compared with a bare trio server that echoes the same frames.
"""

from contextlib import ExitStack

from msgspec import Struct

from benchmarks.children import child, make_home, read_line, send_line, walrusd
from benchmarks.machine import cpu_s
from benchmarks.setup import Setup
from benchmarks.table import Measurement, p50, per_s

ROUNDS = 3
CONCURRENT_CLIENTS = 16


class PingMeasurement(Struct, frozen=True):
    """One measurement: round trips per second, and µs of server and client CPU per round trip."""

    rate: float
    server_us: float
    clients_us: float


def run(setup: Setup) -> list[Measurement]:
    path = str(setup.folder / "echo.sock")
    home = make_home(setup.folder / "pings", setup.url)
    with walrusd(home) as daemon, child(["-m", "benchmarks.echo_server", path]) as echo:
        read_line(echo)
        servers = {"walrusd": (daemon.socket, daemon.pid), "echo": (path, echo.pid)}
        return [
            _compare(setup, servers, clients=1, bar=15_000),
            _compare(setup, servers, clients=CONCURRENT_CLIENTS, bar=25_000),
        ]


def _compare(setup: Setup, servers: dict[str, tuple[str, int]], *, clients: int, bar: int) -> Measurement:
    seconds = setup.scale(8) / 4
    found: dict[str, list[PingMeasurement]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, (path, pid) in servers.items():
            found[name].append(_measure_pings(path, pid, clients, seconds))
    ours, floor = (sorted(found[name], key=lambda pinged: pinged.rate)[ROUNDS // 2] for name in ("walrusd", "echo"))
    rate = p50([pinged.rate for pinged in found["walrusd"]])
    return Measurement(
        what=f"daemon.ping, {'one client' if clients == 1 else f'{clients} clients'}",
        measured=f"{per_s(rate)} ({ours.server_us:.0f} µs daemon + {ours.clients_us:.0f} µs client CPU)",
        floor=f"{per_s(floor.rate)} bare trio echo ({floor.server_us:.0f} + {floor.clients_us:.0f} µs)",
        ratio=rate / floor.rate,
        bar=f"≥ {bar:,}/s",
        met=rate >= bar,
        values={
            "per_s": rate,
            "daemon_us": ours.server_us,
            "clients_us": ours.clients_us,
            "floor_per_s": floor.rate,
            "floor_server_us": floor.server_us,
            "floor_clients_us": floor.clients_us,
        },
    )


def _measure_pings(path: str, pid: int, clients: int, seconds: float) -> PingMeasurement:
    with ExitStack() as stack:
        pingers = [
            stack.enter_context(child(["benchmarks/ping_client.py", path, str(seconds)])) for _ in range(clients)
        ]
        for pinger in pingers:
            read_line(pinger)
        before = cpu_s(pid)
        for pinger in pingers:
            send_line(pinger, "go")
        reports = [[float(word) for word in read_line(pinger).split()] for pinger in pingers]
        server = cpu_s(pid) - before
    trips = sum(count for count, _, _ in reports)
    return PingMeasurement(
        rate=sum(count / took for count, took, _ in reports),
        server_us=server / trips * 1e6,
        clients_us=sum(cpu for _, _, cpu in reports) / trips * 1e6,
    )
