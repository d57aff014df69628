"""A run with somebody listening."""

from collections.abc import AsyncGenerator

from walrus_protocol.events import AnyEvent
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.turns.turn_handle import TurnHandle


async def run_stream(live: LiveSession, handle: TurnHandle) -> AsyncGenerator[AnyEvent, None]:
    """The events of the turn that a message became, as they come; the last is its `done`.

    Raises Problem where the turn's end cannot be told now. Iterate it within a task that closes it.
    """
    with await handle.subscribe(live.stream) as reader:
        while not handle.is_at_end(reader):
            items = await reader.next_batch()
            if not items:
                await handle.wait_result()
            for item in items:
                if handle.includes(item):
                    yield item.event  # noqa: ASYNC119 - closed by its consumer, as the docstring asks
