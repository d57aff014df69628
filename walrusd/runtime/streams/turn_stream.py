"""The events of one turn as an async generator, for callers that use the runtime as a library."""

from collections.abc import AsyncGenerator

from walrus_protocol.events import AnyEvent
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.turns.turn_handle import TurnHandle


async def run_stream(live: LiveSession, handle: TurnHandle) -> AsyncGenerator[AnyEvent, None]:
    """Yields the events of a turn as they come; the last is its `done`.

    Raises Problem if the end of the turn cannot be recorded now. The task that iterates it must also close it.
    """
    with await handle.subscribe(live.stream) as subscription:
        while not handle.is_at_end(subscription):
            items = await subscription.next_batch()
            if not items:
                await handle.wait_result()
            for item in items:
                if handle.includes(item):
                    yield item.event  # noqa: ASYNC119 - closed by its consumer, as the docstring asks
