"""Runs the tool calls that a model requests in one round.

Neighbouring calls that only read run concurrently. Every other call runs alone, in call order, after all before it.
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
"""Maximum concurrent calls of one round: enough to overlap waits, and other sessions keep capacity."""


class RecordEvents(Protocol):
    """The function that appends events to the log."""

    def __call__(self, *events: AnySessionEvent) -> Awaitable[object]:
        """Makes the events durable. Cannot be cancelled."""


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
    """Dispatches every call; records each start and, in order of completion, each outcome.

    `store_output` and `on_output` are those of ToolRequest; `on_output` also gets the id of the call.
    `unfinished_call_ids` lists the calls that an earlier process started and did not finish, once for each attempt.

    Cancelling it leaves calls without an outcome, which recovery closes. An exception of `record` or `dispatch` stops
    all calls and is raised unchanged: if events cannot be recorded, no further call may start.
    """

    async def run_one(call: ToolCall) -> None:
        async def record_started(process: ProcessGroupId | None) -> None:
            attempt = 1 + unfinished_call_ids.count(call.id)
            await record(ToolStarted(call_id=call.id, name=call.name, attempt=attempt, process=process))

        # Recording cannot be cancelled: without this check, further calls would start after an interrupt.
        await trio.lowlevel.checkpoint_if_cancelled()
        request = ToolRequest(
            session=session,
            turn=turn,
            agent=agent,
            call=call,
            schema=schema(call.name),
            workspace=workspace,
            record_started=record_started,
            store_output=store_output,
            on_output=partial(on_output, call.id),
        )
        await record(await dispatch(request))

    def is_read_only(call: ToolCall) -> bool:
        tool_schema = schema(call.name)
        return tool_schema is not None and tool_schema.read_only

    for concurrent, group in groupby(calls, is_read_only):
        if concurrent:
            await _run_concurrently([partial(run_one, call) for call in group])
        else:
            for call in group:
                await run_one(call)


async def _run_concurrently(actions: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Runs the actions concurrently, up to the limit; the first failure stops the others and is raised."""
    failures: list[Exception] = []
    free_slots = trio.Semaphore(MAX_CONCURRENT_CALLS)
    async with trio.open_nursery() as nursery:

        async def guarded(action: Callable[[], Awaitable[None]]) -> None:
            try:
                await action()
            except Exception as failure:  # noqa: BLE001 - raised below, without the nursery's wrapping
                failures.append(failure)
                nursery.cancel_scope.cancel()
            finally:
                free_slots.release()

        for action in actions:
            await free_slots.acquire()
            nursery.start_soon(guarded, action)
    try:
        if failures:
            raise failures[0]
    finally:
        failures.clear()  # each refers to this frame: the cycle would keep alive all that the callers hold
