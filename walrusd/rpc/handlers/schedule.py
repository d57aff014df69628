"""Handlers of the schedule.* methods: list, run, pause, resume, and the history of ticks."""

from msgspec import convert

from walrus_protocol.events import Tick
from walrus_protocol.methods.schedule import (
    ScheduleInfo,
    ScheduleList,
    ScheduleParams,
    TickHistory,
    TickHistoryParams,
    TickInfo,
)
from walrus_protocol.param_types import NoParams
from walrusd.rpc.handlers.pagination import count_fitting, parse_cursor
from walrusd.rpc.request_context import DaemonServices, RequestContext
from walrusd.schedule.ledger import ScheduleState


def list_schedules(services: DaemonServices, _: NoParams) -> ScheduleList:
    return ScheduleList(schedules=tuple(_to_schedule_info(services, state) for state in services.scheduler.states()))


async def run(context: RequestContext, params: ScheduleParams) -> TickInfo:
    """Runs a tick now; answers when it has ended. The tick continues if the client disconnects earlier."""
    return _to_tick_info(await context.services.scheduler.tick_now(params.schedule))


async def pause(context: RequestContext, params: ScheduleParams) -> ScheduleInfo:
    return _to_schedule_info(context.services, await context.services.scheduler.pause(params.schedule))


async def resume(context: RequestContext, params: ScheduleParams) -> ScheduleInfo:
    return _to_schedule_info(context.services, await context.services.scheduler.resume(params.schedule))


async def history(context: RequestContext, params: TickHistoryParams) -> TickHistory:
    before = None if params.cursor is None else parse_cursor(params.cursor)
    found = await context.services.scheduler.history(
        params.schedule, before=before, news=params.news, limit=params.limit + 1
    )
    ticks = [_to_tick_info(tick) for tick in found]
    page = ticks[: count_fitting(ticks, params.limit)]
    return TickHistory(ticks=tuple(page), cursor=str(page[-1].tick) if len(ticks) > len(page) else None)


def _to_tick_info(tick: Tick) -> TickInfo:
    return convert(tick, TickInfo, from_attributes=True)


def _to_schedule_info(services: DaemonServices, state: ScheduleState) -> ScheduleInfo:
    job, row = state.job, state.row
    return ScheduleInfo(
        name=job.name,
        agent=job.agent,
        kind=job.kind,
        every_s=round(job.every_s, 6),
        next_slot=None if row.paused else row.next_slot,
        paused=row.paused,
        running=state.running,
        failures=row.failures,
        closed_until=services.scheduler.breaker_open_until(state),
        last=None if state.last_tick is None else _to_tick_info(state.last_tick),
    )
