"""daemon.ping: round trips a second, beside a trio server with the same frames that only echoes them."""

from contextlib import ExitStack

from msgspec import Struct

from benchmarks.children import child, line_of, make_home, tell, walrusd
from benchmarks.machine import cpu_s
from benchmarks.setup import Setup
from benchmarks.table import Row, p50, per_s

ROUNDS = 3
SIXTEEN = 16


class Pinged(Struct, frozen=True):
    """One measurement: round trips a second, and what each costs of whose CPU."""

    rate: float
    server_us: float
    clients_us: float


def run(setup: Setup) -> list[Row]:
    path = str(setup.folder / "echo.sock")
    home = make_home(setup.folder / "pings", setup.url)
    with walrusd(home) as daemon, child(["-m", "benchmarks.echo_server", path]) as echo:
        line_of(echo)
        servers = {"walrusd": (daemon.socket, daemon.pid), "echo": (path, echo.pid)}
        return [
            _compared(setup, servers, clients=1, bar=15_000),
            _compared(setup, servers, clients=SIXTEEN, bar=25_000),
        ]


def _compared(setup: Setup, servers: dict[str, tuple[str, int]], *, clients: int, bar: int) -> Row:
    seconds = setup.fewer(8) / 4
    found: dict[str, list[Pinged]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, (path, pid) in servers.items():
            found[name].append(_pinged(path, pid, clients, seconds))
    ours, floor = (sorted(found[name], key=lambda pinged: pinged.rate)[ROUNDS // 2] for name in ("walrusd", "echo"))
    rate = p50([pinged.rate for pinged in found["walrusd"]])
    return Row(
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


def _pinged(path: str, pid: int, clients: int, seconds: float) -> Pinged:
    with ExitStack() as stack:
        pingers = [stack.enter_context(child(["benchmarks/pinger.py", path, str(seconds)])) for _ in range(clients)]
        for pinger in pingers:
            line_of(pinger)
        before = cpu_s(pid)
        for pinger in pingers:
            tell(pinger, "go")
        told = [[float(word) for word in line_of(pinger).split()] for pinger in pingers]
        server = cpu_s(pid) - before
    trips = sum(count for count, _, _ in told)
    return Pinged(
        rate=sum(count / took for count, took, _ in told),
        server_us=server / trips * 1e6,
        clients_us=sum(cpu for _, _, cpu in told) / trips * 1e6,
    )
