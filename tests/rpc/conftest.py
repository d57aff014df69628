"""One walrusd for all tests of the wire, and a model whose every word is in the test's hand."""

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
description = "Says what it hears"
[agents.told]
description = "Says what the test wants it to"
model = "fake"
max_iterations = 3
[agents.lost]
description = "Its provider has never heard of its model"
model = "fake/there-is-none"
"""


@pytest.fixture(scope="session")
def port() -> Iterator[socket.socket]:
    """Held for as long as the daemon lives: its provider is there in each test anew, at the same address."""
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
    """What waits for ever fails where it waits, and leaves the tests after it alone."""

    async def give_up() -> None:
        await trio.sleep(MAX_WAIT_S)
        raise TimeoutError(f"the test has waited for {MAX_WAIT_S:.0f} s")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
async def client(daemon: WalrusdProcess, timeout_guard: None) -> AsyncIterator[AsyncClient]:
    async with connect(daemon.socket) as client:
        yield client


@pytest.fixture
async def raw_client(daemon: WalrusdProcess, timeout_guard: None) -> AsyncIterator[RawClient]:
    async with open_raw_client(daemon.socket) as line:
        yield line


@pytest.fixture
async def session(client: AsyncClient, provider: FakeProvider) -> AsyncIterator[int]:
    """A session of the agent that says what the provider is told. A test that fails leaves nothing running in it."""
    session = (await client.create(CreateParams(agent="told"))).session
    yield session
    await client.close(CloseParams(session=session, force=True))
