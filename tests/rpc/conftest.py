"""Fixtures for tests of the wire: one walrusd for all, and a provider whose replies each test sets."""

import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from tests.fakes.home import MAX_WAIT_S, Home, WalrusdProcess
from tests.fakes.provider import FakeProvider
from tests.rpc.raw_client import RawClient, open_raw_client
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.methods import CloseParams, CreateParams

TOML = """
[daemon]
shutdown_grace_s = 0.1
[defaults]
model = "echo"
[permissions]
allow = ["read"]
[providers.echo]
kind = "echo"
models = ["echo"]
[providers.fake]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
models = ["fake"]
max_retries = 0
[models.fake]
price = {{ input = 1.0, output = 2.0 }}
[agents.echo]
description = "Repeats the message"
[agents.fake]
description = "Gives the replies of the fake provider"
model = "fake"
max_iterations = 3
[agents.lost]
description = "Its provider does not know its model"
model = "fake/there-is-none"
"""


@pytest.fixture(scope="session")
def port() -> Iterator[socket.socket]:
    """Holds the provider's port: each test starts its own provider at the same address."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield listening


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, port: socket.socket) -> Home:
    return Home(tmp_path_factory.mktemp("walrus") / "home", TOML.format(port=port.getsockname()[1]))


@pytest.fixture(scope="session")
def daemon(home: Home) -> Iterator[WalrusdProcess]:
    with home.walrusd() as daemon:
        yield daemon


@pytest.fixture
async def provider(port: socket.socket) -> AsyncIterator[FakeProvider]:
    fake = FakeProvider(port.getsockname()[1])
    async with trio.open_nursery() as nursery:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(port.dup()))
        nursery.start_soon(trio.serve_listeners, fake.serve, [listener])
        yield fake
        nursery.cancel_scope.cancel()


@pytest.fixture
async def timeout_guard() -> AsyncIterator[None]:
    """Fails a test that hangs, at the place where it waits, without affecting later tests."""

    async def time_out() -> None:
        await trio.sleep(MAX_WAIT_S)
        raise TimeoutError(f"the test has waited for {MAX_WAIT_S:.0f} s")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(time_out)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
async def client(daemon: WalrusdProcess, timeout_guard: None) -> AsyncIterator[AsyncClient]:
    async with connect(daemon.socket) as client:
        yield client


@pytest.fixture
async def raw_client(daemon: WalrusdProcess, timeout_guard: None) -> AsyncIterator[RawClient]:
    async with open_raw_client(daemon.socket) as raw_client:
        yield raw_client


@pytest.fixture
async def session(client: AsyncClient, provider: FakeProvider) -> AsyncIterator[int]:
    """Yields a session of the agent `fake`; closes it by force, so that a failed test leaves no turn."""
    session = (await client.create(CreateParams(agent="fake"))).session
    yield session
    await client.close(CloseParams(session=session, force=True))
