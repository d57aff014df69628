"""A run with somebody listening."""

from collections.abc import AsyncGenerator

from walrus_protocol.events import AnyEvent
from walrusd.runtime.sessions import LiveSession
from walrusd.runtime.tickets import Ticket


async def run_stream(live: LiveSession, ticket: Ticket) -> AsyncGenerator[AnyEvent, None]:
    """The events of the turn that a message became, as they come; the last is its `done`.

    Raises Problem where the turn's end cannot be told now. Iterate it within a task that closes it.
    """
    with await ticket.listen(live.feed) as reader:
        while not ticket.all_read(reader):
            items = await reader.batch()
            if not items:
                await ticket.outcome()
            for item in items:
                if ticket.owns(item):
                    yield item.event  # noqa: ASYNC119 - closed by its consumer, as the docstring asks
