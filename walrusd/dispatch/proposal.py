"""The executor of a proposal: what a model asks for in one round is a set of actions.

Neighbouring calls that only read run side by side; every other call runs alone, in call order, after all before it.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Protocol

import trio

from walrus_protocol.content import ToolCall, ToolSchema
from walrus_protocol.events import AnySessionEvent, ProcessGroupId, ToolStarted
from walrusd.ports import Dispatch, ToolRequest

MAX_CONCURRENT_CALLS = 8
"""Calls of one round that run at once: enough to hide waiting, and few enough to leave other sessions their share."""


class RecordEvents(Protocol):
    def __call__(self, *events: AnySessionEvent) -> Awaitable[object]:
        """Make them durable facts. Cannot be cancelled."""


async def run_calls(
    calls: Sequence[ToolCall],
    *,
    session: int,
    turn: int,
    agent: str,
    workspace: str,
    schema: Callable[[str], ToolSchema | None],
    dispatch: Dispatch,
    record: RecordEvents,
    store_output: Callable[[bytes], Awaitable[str]],
    on_output: Callable[[str, str], None],
    unfinished_call_ids: Sequence[str] = (),
) -> None:
    """Dispatch every call; record each intent and, in order of completion, each outcome.

    `keep` and `say` are those of ToolRequest; `say` is also told the id of the call. `begun`: the ids of calls that an
    earlier process has begun and not finished, once for each time.

    Cancelling it leaves calls without an outcome, which `mend` closes. What `record` or `dispatch` raises stops
    all calls and is raised as it is: when facts cannot be written, nothing more may happen.
    """

    async def one(call: ToolCall) -> None:
        async def started(process: ProcessGroupId | None) -> None:
            attempt = 1 + unfinished_call_ids.count(call.id)
            await record(ToolStarted(call_id=call.id, name=call.name, attempt=attempt, process=process))

        # Recording cannot be cancelled: without a look here an interrupt would let one call after another begin.
        await trio.lowlevel.checkpoint_if_cancelled()
        request = ToolRequest(
            session=session,
            turn=turn,
            agent=agent,
            call=call,
            schema=schema(call.name),
            workspace=workspace,
            record_started=started,
            store_output=store_output,
            on_output=partial(on_output, call.id),
        )
        await record(await dispatch(request))

    def only_reads(call: ToolCall) -> bool:
        found = schema(call.name)
        return found is not None and found.read_only

    for together, group in groupby(calls, only_reads):
        if together:
            await _run_concurrently([partial(one, call) for call in group])
        else:
            for call in group:
                await one(call)


async def _run_concurrently(actions: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run them, at most SIDE_BY_SIDE at once. The first that fails stops the others, and is what is raised."""
    failures: list[Exception] = []
    room = trio.Semaphore(MAX_CONCURRENT_CALLS)
    async with trio.open_nursery() as nursery:

        async def guarded(action: Callable[[], Awaitable[None]]) -> None:
            try:
                await action()
            except Exception as failure:  # noqa: BLE001 - raised below, without the nursery's wrapping
                failures.append(failure)
                nursery.cancel_scope.cancel()
            finally:
                room.release()

        for action in actions:
            await room.acquire()
            nursery.start_soon(guarded, action)
    try:
        if failures:
            raise failures[0]
    finally:
        failures.clear()  # each knows this frame: they would keep each other, and all that the callers hold
