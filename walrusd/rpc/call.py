"""One request on its way to its handler: what the handler may use."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from walrus_config.schema import Config
from walrus_protocol.events import Live, encode
from walrus_protocol.messages import RequestId, encode_event
from walrus_protocol.methods import ProviderStatus
from walrusd.rpc.outbox import Outbox
from walrusd.runtime.bus import Item
from walrusd.runtime.runtime import Runtime


class House(Struct, frozen=True, kw_only=True):
    """What all handlers share: the runtime, and what the daemon knows of itself."""

    runtime: Runtime
    config: Config
    version: str
    socket: str
    uptime: Callable[[], float]
    """Seconds since the daemon was ready to serve."""
    providers: Callable[[], tuple[ProviderStatus, ...]]
    connections: Callable[[], int]
    warnings: tuple[str, ...]
    stop: Callable[[], None]
    """Ask the daemon to stop, as a signal would."""


class Call(Struct, frozen=True):
    """A request's id and the way back to who asked."""

    id: RequestId
    house: House
    outbox: Outbox

    async def send(self, items: Sequence[Item]) -> None:
        """Events, in order, each when there is room for it."""
        for item in items:
            if self.outbox.full:
                self.outbox.push()
                await self.outbox.room()
            self.outbox.put(encode_event(self.id, item.wire))
        self.outbox.push()

    async def say(self, event: Live) -> None:
        await self.outbox.room()
        self.outbox.put(encode_event(self.id, encode(event)))
        self.outbox.push()
